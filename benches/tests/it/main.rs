//! Scripts that compare Foregate with its peers, and instructions of parts of requests.

#[cfg(test)]
mod instructions;
#[cfg(test)]
mod scripts;
