"""What this server answers each alias with, and how it follows the catalog."""
