//! The built-in S3 endpoint.
