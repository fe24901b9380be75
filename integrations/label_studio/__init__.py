"""A backend for Label Studio: its `/health`, `/setup` and `/predict` on vpd's own service."""
