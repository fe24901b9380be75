"""Small networks trained from pictures."""
