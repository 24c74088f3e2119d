//! CEL expressions, type-checked when they are read and compiled to closures.
