"""Jobs that are disturbed while they run: whatever is done to them, they end as the same experiment."""
