//! Tools for property tests.
