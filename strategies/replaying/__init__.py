"""Replays arms on recorded attempts, for tuning and evaluation. Serving needs none of this, nor numpy, which it needs.

``records`` has what is replayed and what comes out, ``samples`` replays arms that sample, ``cascades`` cascades.
"""
