//! The token suite: what is let in, and every way to be refused, each with its own reason.

use std::sync::{Arc, OnceLock};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm as Alg, EncodingKey};
use proptest::prelude::*;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::api_key::{ApiKey, Hash};
use super::client_token::{Grant, Mint};
use super::keys::{Algorithm, KeyError, KeySet};
use super::verifier::Issuer;
use super::*;

const NOW: u64 = 1_800_000_000;
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const KEY: &str = "ak_0123456789abcdef0123456789abcdef";

/// An identity provider of each algorithm.
struct Provider {
    rsa: EncodingKey,
    rsa_public_pem: String,
    ec: EncodingKey,
    ed: EncodingKey,
    jwks: Value,
}

fn provider() -> &'static Provider {
    static PROVIDER: OnceLock<Provider> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let rsa = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
        let public: PublicKeyX509Der<'_> = rsa.public_key().as_der().unwrap();
        let base64 = STANDARD.encode(public.as_ref());
        let rsa_public_pem = format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n");
        let pkcs8: Pkcs8V1Der<'_> = rsa.as_der().unwrap();
        let private = STANDARD.encode(pkcs8.as_ref());
        let private = format!("-----BEGIN PRIVATE KEY-----\n{private}\n-----END PRIVATE KEY-----\n");
        let rsa = EncodingKey::from_rsa_pem(private.as_bytes()).unwrap();
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let ec = EncodingKey::from_ec_der(ec.to_pkcs8v1().unwrap().as_ref());
        let ed = Ed25519KeyPair::generate().unwrap();
        let ed = EncodingKey::from_ed_der(ed.to_pkcs8v1().unwrap().as_ref());
        let jwk = |key, algorithm, id: &str| {
            let mut jwk = serde_json::to_value(Jwk::from_encoding_key(key, algorithm).unwrap()).unwrap();
            jwk["kid"] = id.into();
            jwk
        };
        let foreign = json!({"kty": "oct", "kid": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET)});
        let unknown = json!({"kty": "LMS", "kid": "quantum", "alg": "HSS-LMS"});
        let keys =
            [jwk(&rsa, Alg::RS256, "rsa"), jwk(&ec, Alg::ES256, "ec"), jwk(&ed, Alg::EdDSA, "ed"), foreign, unknown];
        Provider { rsa, rsa_public_pem, ec, ed, jwks: json!({ "keys": keys }) }
    })
}

fn sign(header: Value, claims: &Value, key: &EncodingKey, algorithm: Alg) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(claims));
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), key, algorithm).unwrap();
    format!("{signed}.{signature}")
}

fn claims() -> Value {
    json!({ "sub": "ann", "org": { "id": "acme" }, "iss": "https://idp.example/", "aud": "antiphon", "exp": NOW + 60 })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// Signed by the provider's P-256 key.
fn token(claims: &Value) -> String {
    sign(json!({"alg": "ES256", "kid": "ec"}), claims, &provider().ec, Alg::ES256)
}

fn verifier() -> Verifier {
    let issuer = Issuer {
        name: "main".into(),
        audience: vec!["antiphon".into(), "other".into()],
        issuer: vec!["https://idp.example/".into()],
        ends_session: true,
    };
    let key = ApiKey {
        name: "crm".into(),
        hash: Hash::of(KEY),
        user: None,
        tenant: Some("acme".into()),
        claims: [("role".to_owned(), json!("server"))].into(),
        mint: true,
    };
    Verifier {
        issuers: vec![issuer],
        keys: vec![key],
        mint: mint(),
        user_claim: "sub".into(),
        tenant_claim: "org.id".into(),
        leeway: 5,
        max_bytes: 4096,
    }
}

fn mint() -> Mint {
    Mint::new([&SecretString::from(SECRET.to_owned())])
}

fn sets() -> Vec<Option<Arc<KeySet>>> {
    vec![Some(Arc::new(KeySet::parse(&provider().jwks.to_string(), None).unwrap()))]
}

fn verify(shown: &str) -> Result<Principal, Denied> {
    verifier().verify(shown, &sets(), Use::Start, NOW).map_err(|failed| failed.why())
}

fn denied(shown: &str) -> &'static str {
    verify(shown).expect_err("it must be refused").label()
}

#[test]
fn tokens_of_each_algorithm_are_taken_and_say_who_calls() {
    let provider = provider();
    for (id, name, key, algorithm) in [
        ("rsa", "RS256", &provider.rsa, Alg::RS256),
        ("ec", "ES256", &provider.ec, Alg::ES256),
        ("ed", "EdDSA", &provider.ed, Alg::EdDSA),
    ] {
        let principal = verify(&sign(json!({"alg": name, "kid": id}), &claims(), key, algorithm)).unwrap();
        assert_eq!((principal.user.as_deref(), principal.tenant.as_deref()), (Some("ann"), Some("acme")), "{name}");
        assert_eq!((principal.until, &principal.means), (Some(NOW + 60), &Means::Jwt("main".into())));
        assert_eq!(principal.claims["org"]["id"], "acme");
    }
    let secret = SecretString::from(SECRET.to_owned());
    let sets = [Some(Arc::new(KeySet::of_secret(&secret).unwrap()))];
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signed = sign(json!({"alg": "HS256", "typ": "JWT"}), &claims(), &key, Alg::HS256);
    verifier().verify(&signed, &sets, Use::Start, NOW).unwrap();
}

#[test]
fn a_public_key_may_lie_in_a_pem_file_and_a_private_one_may_not() {
    let set = KeySet::parse(&provider().rsa_public_pem, None).unwrap();
    let signed = sign(json!({"alg": "RS256", "kid": "any"}), &claims(), &provider().rsa, Alg::RS256);
    verifier().verify(&signed, &[Some(Arc::new(set))], Use::Start, NOW).unwrap();
    let private = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(matches!(KeySet::parse(private, None), Err(KeyError::Unreadable(why)) if why.contains("private")));
}

#[test]
fn a_key_set_keeps_what_it_can_use_and_says_when_that_is_nothing() {
    let text = provider().jwks.to_string();
    assert!(KeySet::parse(&text, Some(Algorithm::EdDsa)).unwrap().find(Some("ed")).is_some());
    assert!(KeySet::parse(&text, Some(Algorithm::EdDsa)).unwrap().find(Some("ec")).is_none());
    let secret = json!({"keys": [{"kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET)}]}).to_string();
    assert_eq!(KeySet::parse(&secret, None).unwrap_err(), KeyError::Empty { left_out: 1 });
    let mut jwk = provider().jwks["keys"][0].clone();
    jwk["use"] = "enc".into();
    assert_eq!(KeySet::parse(&json!({"keys": [jwk]}).to_string(), None).unwrap_err(), KeyError::Empty { left_out: 1 });
    jwk = provider().jwks["keys"][0].clone();
    jwk["alg"] = "RS512".into();
    assert_eq!(KeySet::parse(&json!({"keys": [jwk]}).to_string(), None).unwrap_err(), KeyError::Empty { left_out: 1 });
    for bad in ["", "[]", "{}", "{\"keys\": 5}", "<html>", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"]
    {
        assert!(matches!(KeySet::parse(bad, None), Err(KeyError::Unreadable(_))), "{bad}");
    }
    let many = json!({"keys": vec![json!({}); 200]}).to_string();
    assert_eq!(KeySet::parse(&many, None).unwrap_err(), KeyError::TooMany);
    assert_eq!(KeySet::of_secret(&"short".to_owned().into()).unwrap_err(), KeyError::ShortSecret(5));
}

#[test]
fn a_token_without_a_signature_is_refused() {
    for none in ["none", "None", "nOnE"] {
        let unsigned = sign(json!({"alg": none, "kid": "ec"}), &claims(), &provider().ec, Alg::ES256);
        assert_eq!(denied(&unsigned), "token_unsigned");
        let (signed, _) = unsigned.rsplit_once('.').unwrap();
        assert_eq!(denied(&format!("{signed}.")), "token_unsigned");
    }
    let signed = token(&claims());
    assert_eq!(denied(&format!("{}.", signed.rsplit_once('.').unwrap().0)), "token_signature");
}

#[test]
fn a_public_key_is_never_taken_for_a_shared_secret() {
    let provider = provider();
    let modulus = provider.jwks["keys"][0]["n"].as_str().unwrap();
    for secret in [provider.rsa_public_pem.as_bytes(), modulus.as_bytes(), SECRET.as_bytes()] {
        let key = EncodingKey::from_secret(secret);
        for id in [json!({"alg": "HS256", "kid": "rsa"}), json!({"alg": "HS256", "kid": "ec"})] {
            assert_eq!(denied(&sign(id, &claims(), &key, Alg::HS256)), "token_algorithm");
        }
        // A secret in a set of public keys is no key.
        let named = sign(json!({"alg": "HS256", "kid": "oct"}), &claims(), &key, Alg::HS256);
        assert_eq!(denied(&named), "token_key_unknown");
    }
    let other = sign(json!({"alg": "RS384", "kid": "rsa"}), &claims(), &provider.rsa, Alg::RS384);
    assert_eq!(denied(&other), "token_algorithm");
    let wrong = sign(json!({"alg": "ES256", "kid": "rsa"}), &claims(), &provider.ec, Alg::ES256);
    assert_eq!(denied(&wrong), "token_algorithm");
}

#[test]
fn times_are_numbers_and_are_kept() {
    for wrong in [json!("1800000060"), json!(null), json!([NOW + 60]), json!(true), json!(-1), json!(1e300)] {
        assert_eq!(denied(&token(&with("exp", wrong.clone()))), "token_claims", "exp {wrong}");
    }
    for wrong in [json!("1799999000"), json!(null), json!({}), json!(false)] {
        assert_eq!(denied(&token(&with("nbf", wrong.clone()))), "token_claims", "nbf {wrong}");
        assert_eq!(denied(&token(&with("iat", wrong.clone()))), "token_claims", "iat {wrong}");
    }
    assert_eq!(denied(&token(&without("exp"))), "token_claims");
    assert_eq!(denied(&token(&with("exp", json!(NOW - 5)))), "token_expired");
    verify(&token(&with("exp", json!(NOW - 4)))).unwrap();
    verify(&token(&with("exp", json!(NOW as f64 + 0.5)))).unwrap();
    for name in ["nbf", "iat"] {
        assert_eq!(denied(&token(&with(name, json!(NOW + 6)))), "token_not_yet_valid");
        verify(&token(&with(name, json!(NOW + 5)))).unwrap();
    }
}

#[test]
fn a_token_for_somebody_else_or_by_somebody_else_is_refused() {
    assert_eq!(denied(&token(&with("aud", json!("elsewhere")))), "token_audience");
    assert_eq!(denied(&token(&with("aud", json!(["a", "b"])))), "token_audience");
    assert_eq!(denied(&token(&with("aud", json!(["antiphon", 5])))), "token_claims");
    assert_eq!(denied(&token(&with("aud", json!(5)))), "token_claims");
    assert_eq!(denied(&token(&without("aud"))), "token_claims");
    verify(&token(&with("aud", json!(["elsewhere", "other"])))).unwrap();
    assert_eq!(denied(&token(&with("iss", json!("https://evil.example/")))), "token_issuer");
    assert_eq!(denied(&token(&with("iss", json!(["https://idp.example/"])))), "token_issuer");
    assert_eq!(denied(&token(&without("iss"))), "token_issuer");
    let mut careless = verifier();
    (careless.issuers[0].audience, careless.issuers[0].issuer) = (Vec::new(), Vec::new());
    let verify = |claims| careless.verify(&token(&claims), &sets(), Use::Start, NOW).map_err(|failed| failed.why());
    assert_eq!(verify(claims()).unwrap_err().label(), "token_audience", "meant for a service that we cannot name");
    verify(without("aud")).unwrap();
}

#[test]
fn a_key_id_is_a_plain_name_and_addresses_in_a_header_are_not_followed() {
    let provider = provider();
    let named = |kid: Value| sign(json!({"alg": "ES256", "kid": kid}), &claims(), &provider.ec, Alg::ES256);
    for wrong in [
        json!("../../../../dev/null"),
        json!("/etc/passwd"),
        json!("ec' UNION SELECT 'x"),
        json!("ec\u{0}"),
        json!(""),
        json!("k".repeat(129)),
        json!(7),
        json!(null),
        json!(["ec"]),
    ] {
        assert_eq!(denied(&named(wrong.clone())), "token_key_id", "{wrong}");
    }
    assert_eq!(denied(&named(json!("missing"))), "token_key_unknown");
    assert_eq!(
        verifier().verify(&named(json!("missing")), &sets(), Use::Start, NOW).unwrap_err(),
        Unverified::Keys { issuers: vec![0], why: Denied::UnknownKey },
        "the key may have been published since"
    );
    let nameless = sign(json!({"alg": "ES256"}), &claims(), &provider.ec, Alg::ES256);
    assert_eq!(denied(&nameless), "token_key_unknown", "one of several keys");
    let own = serde_json::to_value(Jwk::from_encoding_key(&provider.ed, Alg::EdDSA).unwrap()).unwrap();
    let steered = json!({
        "alg": "EdDSA", "kid": "ec", "jwk": own, "jku": "https://evil.example/jwks", "x5u": "https://evil.example/x",
    });
    assert_eq!(denied(&sign(steered, &claims(), &provider.ed, Alg::EdDSA)), "token_algorithm");
    let steered = json!({"alg": "ES256", "kid": "ec", "jku": "https://evil.example/jwks"});
    verify(&sign(steered, &claims(), &provider.ec, Alg::ES256)).unwrap();
    let critical = json!({"alg": "ES256", "kid": "ec", "crit": ["b64"], "b64": false});
    assert_eq!(denied(&sign(critical, &claims(), &provider.ec, Alg::ES256)), "token_malformed");
}

#[test]
fn without_a_key_set_nobody_is_let_in_and_it_is_said_that_this_may_change() {
    let failed = verifier().verify(&token(&claims()), &[None], Use::Start, NOW).unwrap_err();
    assert_eq!(failed, Unverified::Keys { issuers: vec![0], why: Denied::KeysUnavailable });
    let failed = verifier().verify(&token(&claims()), &[], Use::Start, NOW).unwrap_err();
    assert_eq!(failed.why(), Denied::KeysUnavailable);
}

#[test]
fn what_is_no_token_is_refused_before_anything_is_computed() {
    let large = token(&with("note", json!("x".repeat(5000))));
    assert_eq!(denied(&large), "token_too_large");
    let huge = "a".repeat(1 << 20);
    assert_eq!(denied(&huge), "token_too_large");
    for bad in ["", " ", "a b", "a\nb", "..", "a.b.c", "é", "e30.e30.", "e30.W10.x", "bnVsbA.e30.x"] {
        assert_eq!(denied(bad), "token_malformed", "{bad:?}");
    }
}

#[test]
fn of_several_issuers_the_one_that_is_meant_decides() {
    let mut verifier = verifier();
    let second =
        Issuer { name: "second".into(), issuer: vec!["https://two.example/".into()], ..verifier.issuers[0].clone() };
    verifier.issuers.push(second);
    let secret = SecretString::from(SECRET.to_owned());
    let both = [sets().remove(0), Some(Arc::new(KeySet::of_secret(&secret).unwrap()))];
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let by_second = |claims: &Value| sign(json!({"alg": "HS256"}), claims, &key, Alg::HS256);
    let verify = |shown: &str| verifier.verify(shown, &both, Use::Start, NOW).map_err(|failed| failed.why().label());
    let principal = verify(&by_second(&with("iss", json!("https://two.example/")))).unwrap();
    assert_eq!(principal.means, Means::Jwt("second".into()));
    assert_eq!(
        verify(&by_second(&claims())),
        Err("token_key_unknown"),
        "the first issuer has several keys, and no secret"
    );
    assert_eq!(verify(&token(&with("iss", json!("https://two.example/")))), Err("token_algorithm"));
}

#[test]
fn api_keys_are_known_by_their_hash() {
    let principal = verify(KEY).unwrap();
    assert_eq!(principal.means, Means::ApiKey("crm".into()));
    assert_eq!((principal.tenant.as_deref(), principal.user.as_deref()), (Some("acme"), None));
    assert_eq!(
        (principal.may_mint, &principal.claims["role"], &principal.claims["org.id"]),
        (true, &json!("server"), &json!("acme"))
    );
    assert_eq!(denied("ak_0123456789abcdef0123456789abcdeg"), "api_key_unknown");
    assert_eq!(denied(&Hash::of(KEY).to_string()), "api_key_unknown", "the hash is not the key");
    assert_eq!(Hash::parse(&Hash::of(KEY).to_string()), Some(Hash::of(KEY)));
    for bad in
        ["", "sha256:", "sha256:zz", &format!("sha256:+{}", "0".repeat(63)), &format!("sha256:{}", "é".repeat(32))]
    {
        assert_eq!(Hash::parse(bad), None, "{bad}");
    }
}

fn grant() -> Grant {
    let scope = Scope {
        routes: vec!["jung".into()],
        agents: vec!["voice".into()],
        limits: vec!["gold".into()],
        max: Some(std::time::Duration::from_secs(600)),
        setup: crate::message::Setup { voice: Some("cedar".into()), ..Default::default() },
        metadata: json!({"order": 17}).as_object().cloned(),
    };
    let claims = json!({"tier": "gold"}).as_object().cloned().unwrap();
    Grant { user: Some("bob".into()), tenant: Some("acme".into()), claims, scope, once: true }
}

#[test]
fn a_client_token_says_on_every_node_what_it_was_made_for() {
    let token = mint().make(&grant(), "id-1", NOW, 60).unwrap();
    assert!(token.starts_with("ek_") && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)));
    let principal = verify(&token).unwrap();
    assert_eq!((principal.means.clone(), principal.scope.clone()), (Means::ClientToken, grant().scope));
    assert_eq!((principal.user.as_deref(), principal.tenant.as_deref()), (Some("bob"), Some("acme")));
    assert_eq!(principal.claims, json!({"tier": "gold", "sub": "bob", "org.id": "acme"}));
    assert_eq!(principal.once, Some(SingleUse { id: "id-1".into(), until: NOW + 65 }));
    assert_eq!((principal.until, principal.may_mint), (None, false));
    let old = |purpose| verifier().verify(&token, &sets(), purpose, NOW + 3600).map_err(|failed| failed.why());
    assert_eq!(old(Use::Start), Err(Denied::Expired));
    assert_eq!(old(Use::Resume).unwrap().user.as_deref(), Some("bob"), "the session was bound to it when it was fresh");
}

#[test]
fn client_tokens_of_another_secret_and_other_tokens_of_ours_are_refused() {
    let other = Mint::new([&SecretString::from("another secret, of 32 bytes or more".to_owned())]);
    let foreign = other.make(&grant(), "id-1", NOW, 60).unwrap();
    assert_eq!(denied(&foreign), "token_key_unknown");
    let rotated = Mint::new([&SecretString::from("new".to_owned()), &SecretString::from(SECRET.to_owned())]);
    rotated
        .read(&mint().make(&grant(), "id-1", NOW, 60).unwrap(), NOW, 5, false)
        .expect("the secret before still verifies");
    let token = mint().make(&grant(), "id-1", NOW, 60).unwrap();
    assert_eq!(denied(token.strip_prefix("ek_").unwrap()), "token_issuer", "it is no token of the identity provider");
    let disguised = format!("ek_{}", super::tests::token(&claims()));
    assert_eq!(denied(&disguised), "token_malformed");
    assert_eq!(denied("ek_"), "token_malformed");
    assert!(Mint::new([]).make(&grant(), "id", NOW, 60).is_none());
}

#[test]
fn the_same_user_is_the_same_caller_and_nobody_can_look_like_another() {
    let by = |user: Option<&str>, tenant: Option<&str>| Principal {
        user: user.map(str::to_owned),
        tenant: tenant.map(str::to_owned),
        means: Means::Jwt("main".into()),
        ..Principal::anonymous()
    };
    let token = Principal { means: Means::ClientToken, ..by(Some("ann"), Some("acme")) };
    assert_eq!(token.name(), by(Some("ann"), Some("acme")).name());
    assert_ne!(by(Some("ann"), None).name(), by(Some("ann"), Some("acme")).name());
    assert_ne!(by(Some("a/1:b"), None).name(), by(Some("b"), Some("a")).name());
    assert_ne!(by(None, Some("a")).name(), by(Some(""), Some("a")).name());
    assert_eq!(&*Principal::anonymous().name(), "anonymous");
}

#[test]
fn every_reason_has_a_name_of_its_own() {
    let mut names: Vec<_> = Denied::ALL.iter().map(|why| why.label()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Denied::ALL.len());
    assert!(Denied::ALL.iter().all(|why| why.meaning().ends_with('.') && why.remedy().ends_with('.')));
}

/// Every kind of credential, as it is right.
fn right(kind: usize) -> String {
    let provider = provider();
    match kind {
        0 => sign(json!({"alg": "RS256", "kid": "rsa"}), &claims(), &provider.rsa, Alg::RS256),
        1 => token(&claims()),
        2 => sign(json!({"alg": "EdDSA", "kid": "ed"}), &claims(), &provider.ed, Alg::EdDSA),
        3 => mint().make(&grant(), "id-1", NOW, 60).unwrap(),
        _ => KEY.to_owned(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_changed_credential_passes(
        kind in 0usize..5,
        at in any::<prop::sample::Index>(),
        length in 1usize..8,
        byte in 0u8..128,
        how in 0u8..5,
    ) {
        let good = right(kind);
        prop_assert!(verify(&good).is_ok());
        let mut bytes = good.clone().into_bytes();
        let at = at.index(bytes.len());
        match how {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            2 => drop(bytes.drain(at..(at + length).min(good.len()))),
            3 => bytes.truncate(at),
            _ => bytes[at] ^= 1 << (byte % 7),
        }
        let changed = String::from_utf8_lossy(&bytes).into_owned();
        prop_assume!(changed != good);
        prop_assert!(verify(&changed).is_err(), "{changed}");
    }

    #[test]
    fn no_part_of_one_token_fits_another(one in 0usize..4, other in 0usize..4, parts in 1u8..7) {
        let (one, other) = (right(one), right(if other == one { (other + 1) % 4 } else { other }));
        let (first, second): (Vec<_>, Vec<_>) = (one.split('.').collect(), other.split('.').collect());
        let mixed: Vec<_> = (0..3).map(|part| if parts >> part & 1 == 1 { first[part] } else { second[part] }).collect();
        let mixed = mixed.join(".");
        prop_assert!(mixed == one || mixed == other || verify(&mixed).is_err(), "{mixed}");
    }

    #[test]
    fn whatever_is_shown_nothing_breaks(shown in "\\PC{0,300}", parts in prop::collection::vec("[A-Za-z0-9_-]{0,80}", 0..6)) {
        prop_assert!(verify(&shown).is_err());
        prop_assert!(verify(&parts.join(".")).is_err());
        let token = parts.join(".");
        prop_assert!(verify(&["ek_", &token].concat()).is_err());
    }

    #[test]
    fn claims_of_any_shape_are_read_or_refused(exp in value(), nbf in value(), aud in value(), iss in value()) {
        let claims = json!({"exp": exp, "nbf": nbf, "aud": aud, "iss": iss});
        if let Ok(principal) = verify(&token(&claims)) {
            prop_assert!(exp.as_f64().is_some_and(|exp| exp > (NOW - 5) as f64), "{claims}: {principal:?}");
            prop_assert!(nbf.as_f64().is_some_and(|nbf| nbf <= (NOW + 5) as f64), "{claims}");
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (NOW - 100..NOW + 100).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "(antiphon|https://idp.example/|[a-z]{0,8})".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Value::from))
}
