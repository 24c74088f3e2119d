//! Makes the gRPC stubs of `foregate.fleet.v1` over the messages of `foregate-policy`.

use tonic_build::manual::{Builder, Method, Service};

const MESSAGES: &str = "foregate_policy::fleet";
const CODEC: &str = "tonic_prost::ProstCodec";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let method = |name: &str, route: &str, input: &str, output: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("{MESSAGES}::{input}"))
            .output_type(format!("{MESSAGES}::{output}"))
            .codec_path(CODEC)
    };
    let policies = Service::builder()
        .package("foregate.fleet.v1")
        .name("Policies")
        .method(
            method("stream", "Stream", "PolicyRequest", "PolicyResponse")
                .client_streaming()
                .server_streaming()
                .build(),
        )
        .build();
    let identity = Service::builder()
        .package("foregate.fleet.v1")
        .name("Identity")
        .method(method("sign", "Sign", "SignRequest", "SignResponse").build())
        .method(method("bundles", "Bundles", "BundleRequest", "Bundle").server_streaming().build())
        .build();
    Builder::new().build_transport(false).compile(&[policies, identity]);
}
