"""The language of Tandem: what a job is. Needs pydantic and yaml only."""
