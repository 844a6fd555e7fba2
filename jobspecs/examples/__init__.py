"""The specs that users start from; each header says how to run it."""
