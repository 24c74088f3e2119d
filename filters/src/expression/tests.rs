//! Tables: what expressions give, and what is wrong with those that do not compile.
