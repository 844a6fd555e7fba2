"""Towers, and what joins them into one model that an objective trains."""
