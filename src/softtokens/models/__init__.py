"""A text model seen as three things: embed tokens, run the body (with a cache or teacher-forced), read the vocabulary."""
