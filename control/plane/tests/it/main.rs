//! The command as a user calls it.

#[cfg(test)]
mod check;
#[cfg(test)]
mod deploy;
