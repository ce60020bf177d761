"""What people and programs can see of this server."""
