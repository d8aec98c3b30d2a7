"""Work whose memory is known, without heavy imports."""


def fill(count: int):
    return lambda: bytes(bytearray(b"x") * count).count(b"y")
