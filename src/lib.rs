//! nanomoe
