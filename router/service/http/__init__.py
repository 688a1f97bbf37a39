"""The door for HTTP: what OpenAI's clients speak. Imported where `serve --http` asks for it, and only there.

``application`` answers requests, ``door`` listens. A chat completion is a Solve in other words: ``requests`` makes the
one of the other, ``replies`` makes chat completions of solutions, ``errors`` OpenAI's errors of ours. Everything else,
from tokens to metrics, is what stands around gRPC's calls as well.
"""
