"""What stands around every call, whichever door it came through: gRPC now, HTTP next.

``call`` holds the call itself, ``chain`` the protocol; each other file is one middleware. Nothing here knows gRPC.
"""
