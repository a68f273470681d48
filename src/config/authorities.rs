//! Files of further certificate authorities: what is read here is what is trusted, and what says whether such a file can be
//! used at all.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::Path;

/// The certificates in the PEM file at `path`: one at least.
///
/// # Errors
/// What is wrong with the file, for a person.
pub fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = std::fs::read(path).map_err(|cause| format!("it cannot be read: {cause}"))?;
    let read = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let read = read.map_err(|cause| format!("it cannot be used: {cause}"))?;
    if read.is_empty() {
        return Err("it contains no certificate in PEM form".to_owned());
    }
    Ok(read)
}
