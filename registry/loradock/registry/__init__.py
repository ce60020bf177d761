"""What exists, what it is, where it came from, which version is live. No torch, no gRPC."""
