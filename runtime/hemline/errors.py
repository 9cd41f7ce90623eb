"""Every error that Hemline raises for a cause outside its own code.

HemlineError
├── DataError         a data set is missing, damaged or does not fit the model
├── InputError        an image has the wrong shape, type or values
├── ModelFileError    a model file is missing, damaged or not what its name says
│   ├── ChecksumError     its SHA-256 is not the one in its manifest
│   └── UnknownOperationError    it holds an operation that its engine cannot evaluate
├── IncomparableError   two benchmarks are of different machines, or of no file in common
├── ManifestError     a JSON document of Hemline's is not valid
├── EngineUnavailableError   the engine that a file needs is not installed here
├── ExportError       a model cannot be converted as asked
└── OutputError       a result cannot be written

A missed tolerance is a result, not an error: see `hemline.parity.verify`.
"""


class HemlineError(Exception):
    """The base of all; its message says what came, what was expected and how to fix it."""


class DataError(HemlineError):
    """A data set is missing, damaged or does not fit the model."""


class InputError(HemlineError, ValueError):
    """An image given to a model has the wrong shape, dtype or values."""


class ModelFileError(HemlineError):
    """A model file is missing, damaged or not what its name says."""


class ChecksumError(ModelFileError):
    """A model file's SHA-256 is not the one that its manifest records."""


class UnknownOperationError(ModelFileError):
    """A model file holds an operation, or a form of one, that its engine cannot evaluate."""


class IncomparableError(HemlineError):
    """Two benchmarks are of different machines, or have no file in common."""


class ManifestError(HemlineError):
    """A JSON document of Hemline's lacks a key, has an unknown one or a wrong value."""


class EngineUnavailableError(HemlineError):
    """The engine that runs this kind of file is not installed or not available here."""


class ExportError(HemlineError):
    """A model cannot be converted as asked."""


class OutputError(HemlineError):
    """A result cannot be written where it was asked for."""
