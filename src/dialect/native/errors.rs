//! Meaning and remedy of every error code and close reason.
