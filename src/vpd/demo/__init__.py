"""What `vpd demo` shows."""
