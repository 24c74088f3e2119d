//! A development token issuer: its own key, JWK set, discovery and tokens.
