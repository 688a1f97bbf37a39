"""The HTTP server for OpenAI's clients. Imported only where `serve --http` asks for it.

``door`` listens, ``application`` answers requests. A chat completion is a Solve call in another form: ``requests``
turns chat completions into Solve requests, ``replies`` turns solutions into chat completions, and ``errors`` turns the
router's errors into OpenAI's. The middleware, from tokens to metrics, is the same as for gRPC.
"""
