//! The scripts that compare Foregate with its peers, and instructions of the parts of a request.

mod instructions;
mod scripts;
