//! Encryption: rustls, with the system's certificates, and with arithmetic in Rust.

use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsConfigBuilder, TlsProvider};

/// Why [`config`] has none.
pub const MISSING: &str = "https needs an x86-64 processor with AES, AVX2 and ADX, or a 64-bit ARM one with AES and SHA2: \
                           set HF_ENDPOINT to a mirror with http, or download on another machine";

/// The settings for https; `None` where this machine cannot do it.
pub fn config() -> Option<TlsConfig> {
    // Those of the system include what a company's proxy signs with. `SSL_CERT_FILE` names others.
    let system: Vec<_> = rustls_native_certs::load_native_certs()
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    let roots = if system.is_empty() { RootCerts::WebPki } else { RootCerts::new_with_certs(&system) };
    let builder = TlsConfig::builder().provider(TlsProvider::Rustls).root_certs(roots);
    Some(with_arithmetic(builder)?.build())
}

/// What sends requests that may be encrypted; `None` where this machine cannot do it.
pub fn agent() -> Option<Agent> {
    Some(Agent::config_builder().tls_config(config()?).build().new_agent())
}

/// Graviola's, on processors that have what it demands (on others it panics).
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn with_arithmetic(builder: TlsConfigBuilder) -> Option<TlsConfigBuilder> {
    let provider = || rustls_graviola::default_provider().into();
    is_able().then(|| builder.unversioned_rustls_crypto_provider(provider()))
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn with_arithmetic(_: TlsConfigBuilder) -> Option<TlsConfigBuilder> {
    None
}

#[cfg(target_arch = "x86_64")]
fn is_able() -> bool {
    is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("pclmulqdq")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("adx")
        && is_x86_feature_detected!("avx2")
}

#[cfg(target_arch = "aarch64")]
fn is_able() -> bool {
    use std::arch::is_aarch64_feature_detected;
    is_aarch64_feature_detected!("neon")
        && is_aarch64_feature_detected!("aes")
        && is_aarch64_feature_detected!("pmull")
        && is_aarch64_feature_detected!("sha2")
}
