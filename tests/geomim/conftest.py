"""Generated examples are timed by the machine, not by hypothesis."""

from hypothesis import settings

settings.register_profile("geometry", deadline=None, max_examples=40)
settings.load_profile("geometry")
