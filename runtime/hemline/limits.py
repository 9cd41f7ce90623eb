"""How much is read of what may come from anywhere. docs/runtime.md has the same table.

A limit holds for every command and every way of opening a file; `trust` lifts none of them.
"""

# Protobuf messages end there (https://protobuf.dev/programming-guides/proto-limits/), and so do
# flatbuffers. A file of zeros, without a block on disk, can be far larger.
MODEL_BYTES = 2 << 30
# A Core ML package has 3, C source 2.
PACKAGE_FILES = 1_000
# manifest.json, bench.json and the other records: the largest released one has 0.5 MB. Lists of
# empty lists take twenty times as much memory as text.
DOCUMENT_BYTES = 32 << 20
# What the members of a .keras archive are unpacked to, and the JSON among them.
KERAS_BYTES = 4 << 30
KERAS_JSON_BYTES = 32 << 20
KERAS_MEMBERS = 1_000
# Test and calibration samples: the file, and what its arrays are unpacked to.
DATA_BYTES = 8 << 30
# A photo of 64 million pixels takes 0.3 GB for each of its forms on the way to a model's size.
PICTURE_BYTES = 256 << 20
PICTURE_PIXELS = 1 << 26
# Class names, one a line.
LABELS_BYTES = 1 << 20

# Of the inputs that Hemline draws itself: a model's golden ones, and a batch to time.
DRAWN_ELEMENTS = 1 << 28
# An engine starts as many at once as it is told to.
THREADS = 1_024
# Of a benchmark: 50,000,000 calls, whose times take 0.4 GB.
ROUNDS = 1_000_000

# The memory of a child process that tries a file: this much and four times the file, as what an
# engine takes without any file is below a fifth of it; and never more than the second.
CHILD_BYTES = 2 << 30
CHILD_MOST_BYTES = 8 << 30
# What a child may say of a file.
ANSWER_BYTES = 64 << 20
