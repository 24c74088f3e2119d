//! The command as a user calls it.

#[cfg(test)]
mod check;
