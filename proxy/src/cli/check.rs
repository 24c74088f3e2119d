//! `foregate check`: every fault of a folder of policies, without running them.
