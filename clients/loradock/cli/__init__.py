"""The admin CLI, built on the SDK. `loradock.cli.main` puts it together."""
