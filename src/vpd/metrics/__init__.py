"""What each benchmark counts."""
