"""The values that say how the landmarks of a face were found.

Apart from `schema`, whose import of TensorFlow Datasets takes longer than finding a face.
"""

HOG, CNN, FALLBACK, GIVEN = 0, 1, 2, 3
"""Values of `landmark_source`: found by dlib's HOG or CNN detector; by neither, so that the
landmarks are a guess in a fixed box; or its box was given by the data source."""

LANDMARK_SOURCES: tuple[str, ...] = ("hog", "cnn", "fallback", "given")
