"""Landmarks: the sizes of a log that a whole ecosystem agrees to refer to, so that certificates need no signatures.

A CA appends to a `LandmarkSequence` and publishes `ActiveLandmarks`; everybody else reads the latter, and finds with
`landmark_for` which subtree of which landmark holds an entry.

Spec: Merkle Tree Certificates, "Landmark-Relative Certificates".
"""

from mtc.landmark.active import MAX_LANDMARKS_BYTES, ActiveLandmarks
from mtc.landmark.sequence import (
    MAX_EXPIRY,
    MAX_LANDMARK_NUMBER,
    Landmark,
    LandmarkPlace,
    LandmarkSequence,
    landmark_for,
    max_active,
)

__all__ = [
    "MAX_EXPIRY",
    "MAX_LANDMARKS_BYTES",
    "MAX_LANDMARK_NUMBER",
    "ActiveLandmarks",
    "Landmark",
    "LandmarkPlace",
    "LandmarkSequence",
    "landmark_for",
    "max_active",
]
