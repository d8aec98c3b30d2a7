"""A text model seen as three things: embed tokens, run the body (cached or teacher-forced), read the vocabulary."""
