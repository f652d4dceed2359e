//! Spans as a collector would read them.
