//! All filters, in the order they run; a new filter is one row here.
