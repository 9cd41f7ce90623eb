"""The reference models: their data set, their training and their evaluation.

Importing this package, its data sets or its command does not import TensorFlow.
"""
