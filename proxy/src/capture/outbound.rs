//! Redirected connections of the application: matched with upstreams by where they meant to go.

use foregate_filters::chain::Refusal;
use foregate_filters::step::Step;
use foregate_policy::routes::Takes;
use tokio::time::timeout;

use crate::capture::known::{find, passes_unknown};
use crate::capture::{Arrival, Then, refuse};
use crate::connection::go_on;
use crate::handshake::establish;
use crate::streams::detect::{self, Spoken};
use crate::streams::{self, Arrived, Client};

/// Serves a connection to its end.
pub async fn serve(arrival: Arrival) {
    let Arrival { gateway, entry, stream, peer, meant, drain, open, seat } = arrival;
    let Some(capture) = entry.capture.clone() else { return };
    let pinned = gateway.live.pin();
    let found = find(&pinned, entry.port, meant);
    let requests = found.requests;
    let connections = found.stream.is_some() || (!requests && passes_unknown(&pinned, entry.port));
    if !requests && !connections {
        let reply = pinned.miss(&format!("no upstream of a route has {meant}"));
        let told = Refusal { step: Step::Route, reply: Box::new(reply) };
        return refuse((gateway, entry), (&stream, peer), false, open, told);
    }
    drop(pinned);
    let takes = |takes: bool| if takes { Takes::Any } else { Takes::Nothing };
    let opaque = connections && capture.opaque.contains(&meant.port());
    let spoken = match Then::of(takes(requests), takes(connections), opaque) {
        Then::Read => Spoken::Http,
        Then::Pass => Spoken::Opaque,
        Then::Look => {
            let looked = tokio::select! {
                looked = detect::spoken(&stream, capture.within) => looked,
                () = drain.noticed() => return,
            };
            let Ok(spoken) = looked else { return };
            spoken
        }
    };
    if spoken != Spoken::Http {
        let client = Client { peer, destination: Some(meant), spoken };
        let arrived = Arrived::plain(stream);
        return Box::pin(streams::carry(gateway, entry, (arrived, client), drain, (open, seat))).await;
    }
    let established = tokio::select! {
        established = timeout(
            gateway.deadlines.idle,
            Box::pin(establish(&gateway, &entry, peer.ip(), stream)),
        ) => established,
        () = drain.noticed() => return,
    };
    let Ok(Ok(established)) = established else { return };
    // Apart, as any connection that stands.
    tokio::spawn(go_on(gateway, entry, established, (peer, Some(meant)), drain, (open, seat)));
}
