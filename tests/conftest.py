"""Set before any test imports TensorFlow, in whatever order they are collected."""

import os

# For horovod.tensorflow.keras, which is for Keras 2. Keras 3 is tested beside it, as `keras`.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
