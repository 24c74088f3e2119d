//! The paths and verbs of the API of Kubernetes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::store::{At, Change, Collection, Event, Refusal, Store};

/// Between two bookmarks of a watch that asks for them.
const BOOKMARK: Duration = Duration::from_millis(200);

/// What a path means.
#[derive(Clone, Debug)]
struct Place {
    collection: Collection,
    namespace: String,
    name: Option<String>,
    subresource: Option<String>,
}

/// Serves in a runtime of its own, so that dropping that closes every connection.
pub fn serve(listener: TcpListener, store: Arc<Store>) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    listener.set_nonblocking(true).unwrap();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let routes = Router::new().fallback(answer).with_state(store);
        axum::serve(listener, routes).await.unwrap();
    });
    runtime
}

fn place(path: &str) -> Option<Place> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let (plural, rest) = rest.split_first()?;
    let owned = |text: &&str| (*text).to_owned();
    Some(Place {
        collection: (group.to_owned(), version.to_owned(), owned(plural)),
        namespace: namespace.to_owned(),
        name: rest.first().map(owned),
        subresource: rest.get(1).map(owned),
    })
}

/// What is told of the server itself, with the time that it takes it to be.
fn told(store: &Store, path: &str) -> Option<Response> {
    let value = match path.strip_prefix("/apis/") {
        Some(group) if !group.contains('/') => {
            let versions =
                if store.refuses(group).is_some() { json!([]) } else { json!([{ "version": "v1" }]) };
            json!({ "kind": "APIGroup", "name": group, "versions": versions })
        }
        None if path == "/version" => json!({ "major": "1", "minor": "36" }),
        _ => return None,
    };
    let mut response = axum::Json(value).into_response();
    if let Some(date) = store.date() {
        response.headers_mut().insert(header::DATE, date.parse().unwrap());
    }
    Some(response)
}

/// What discovery tells of kinds that are served in other versions.
fn discovered(store: &Store, path: &str) -> Option<Response> {
    let known = store.elsewhere();
    let value = match path.trim_matches('/').split('/').collect::<Vec<_>>().as_slice() {
        ["apis"] => {
            let groups = known.iter().map(|(group, version, _)| {
                let version = json!({ "groupVersion": format!("{group}/{version}"), "version": version });
                json!({ "name": group, "versions": [version] })
            });
            json!({ "kind": "APIGroupList", "groups": groups.collect::<Vec<_>>() })
        }
        ["apis", group, version] if known.iter().any(|one| one.0 == *group && one.1 == *version) => {
            let kinds = known.iter().filter(|one| one.0 == *group && one.1 == *version).map(|(.., plural)| {
                json!({ "name": plural, "singularName": "", "namespaced": true, "kind": plural, "verbs": ["list"] })
            });
            let version = format!("{group}/{version}");
            json!({ "kind": "APIResourceList", "groupVersion": version, "resources": kinds.collect::<Vec<_>>() })
        }
        _ => return None,
    };
    Some(axum::Json(value).into_response())
}

async fn answer(
    State(store): State<Arc<Store>>,
    Query(query): Query<BTreeMap<String, String>>,
    request: Request,
) -> Response {
    let path = request.uri().path();
    if let Some(said) = told(&store, path).or_else(|| discovered(&store, path)) {
        return said;
    }
    let Some(place) = place(request.uri().path()) else { return refusal((404, "NotFound")) };
    let watches = query.get("watch").is_some_and(|said| said == "true" || said == "1");
    let verb = if watches { "WATCH".to_owned() } else { request.method().to_string() };
    store.note(format!("{verb} {}", request.uri().path()));
    if let Some(refused) = store.refuses(&place.collection.2) {
        return refusal(refused);
    }
    if watches {
        return watch(store, place, &query);
    }
    let method = request.method().clone();
    let kind = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let body = axum::body::to_bytes(request.into_body(), 8 << 20).await.unwrap();
    match carry_out(&store, &place, &method, &kind, &query, &body) {
        Ok(value) => axum::Json(value).into_response(),
        Err(refused) => refusal(refused),
    }
}

fn carry_out(
    store: &Store,
    place: &Place,
    method: &Method,
    kind: &str,
    query: &BTreeMap<String, String>,
    body: &Bytes,
) -> Result<Value, Refusal> {
    let said = || serde_json::from_slice::<Value>(body).map_err(|_| (400, "BadRequest"));
    let status = place.subresource.as_deref() == Some("status");
    let at = |name: &str| -> At { (place.namespace.clone(), name.to_owned()) };
    match (method.as_str(), place.name.as_deref()) {
        ("POST", Some(account)) if place.subresource.as_deref() == Some("token") => {
            token(place, account, &said()?)
        }
        ("POST", None) if place.collection.2 == "tokenreviews" => Ok(review(said()?)),
        ("POST", None) if place.collection.0 == "authorization.k8s.io" => Ok(store.decide(said()?)),
        ("POST", None) if query.get("dryRun").is_some_and(|said| said == "All") => store.admit(said()?),
        ("GET", None) => {
            let (version, items) = store.list(&place.collection, &place.namespace, only(query));
            let version = version.to_string();
            Ok(
                json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": version }, "items": items }),
            )
        }
        ("GET", Some(name)) => store.get(&place.collection, &at(name)),
        ("POST", None) => {
            let object = said()?;
            let name =
                object.pointer("/metadata/name").and_then(Value::as_str).ok_or((422, "Invalid"))?.to_owned();
            store.create(&place.collection, &at(&name), object)
        }
        ("PUT", Some(name)) => store.change(&place.collection, &at(name), status, Change::Replace(said()?)),
        ("PATCH", Some(_)) if store.fails(&place.collection.2) => Err((500, "InternalError")),
        ("PATCH", Some(name)) => {
            // What applies an object that is not there needs to be allowed to create it as well.
            if store.get(&place.collection, &at(name)).is_err() {
                let (group, version, plural) = &place.collection;
                store.note(format!("POST /apis/{group}/{version}/{plural}"));
            }
            let manager = query.get("fieldManager").map(String::as_str).unwrap_or_default();
            let change = match kind {
                "application/merge-patch+json" => Change::Merge(said()?),
                "application/json-patch+json" => Change::Json(said()?),
                "application/apply-patch+yaml" => Change::Apply(said()?, manager),
                _ => return Err((415, "UnsupportedMediaType")),
            };
            store.change(&place.collection, &at(name), status, change)
        }
        ("DELETE", Some(name)) => store.delete(&place.collection, &at(name)),
        _ => Err((405, "MethodNotAllowed")),
    }
}

/// A token that [`review`] knows again: the account, and for whom.
fn token(place: &Place, account: &str, said: &Value) -> Result<Value, Refusal> {
    let audiences = said.pointer("/spec/audiences").cloned().ok_or((422, "Invalid"))?;
    let token =
        json!({ "namespace": place.namespace, "account": account, "audiences": audiences }).to_string();
    let mut answer = said.clone();
    answer["status"] = json!({ "token": token, "expirationTimestamp": "2030-01-01T00:00:00Z" });
    Ok(answer)
}

fn review(mut said: Value) -> Value {
    let token = said.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
    let claims: Value = serde_json::from_str(token).unwrap_or_default();
    let wanted = said.pointer("/spec/audiences").and_then(Value::as_array).cloned().unwrap_or_default();
    let known = claims["audiences"].as_array().cloned().unwrap_or_default();
    let both: Vec<Value> = wanted.into_iter().filter(|audience| known.contains(audience)).collect();
    said["status"] = if both.is_empty() {
        json!({ "authenticated": false, "error": "the token is for somebody else" })
    } else {
        let word = |field: &str| claims[field].as_str().unwrap_or_default().to_owned();
        let name = format!("system:serviceaccount:{}:{}", word("namespace"), word("account"));
        json!({ "authenticated": true, "audiences": both, "user": { "username": name } })
    };
    said
}

fn only(query: &BTreeMap<String, String>) -> Option<&str> {
    query.get("fieldSelector").and_then(|fields| fields.strip_prefix("metadata.name="))
}

fn refusal((code, reason): Refusal) -> Response {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason, "reason": reason, "code": code });
    (StatusCode::from_u16(code).unwrap(), axum::Json(status)).into_response()
}

fn watch(store: Arc<Store>, place: Place, query: &BTreeMap<String, String>) -> Response {
    let from: u64 = query.get("resourceVersion").and_then(|from| from.parse().ok()).unwrap_or(0);
    let only = only(query).map(str::to_owned);
    let bookmarks = query.get("allowWatchBookmarks").is_some_and(|said| said == "true");
    let latest = store.latest.subscribe();
    let body = stream::unfold(Some((from, latest)), move |state| {
        let (store, place, only) = (Arc::clone(&store), place.clone(), only.clone());
        async move {
            let (from, mut latest) = state?;
            loop {
                latest.borrow_and_update();
                let (version, events) = match store.since(from) {
                    Ok(found) => found,
                    Err((code, reason)) => {
                        let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "too old resource version", "reason": reason, "code": code });
                        return Some((Ok(line("ERROR", &status)), None));
                    }
                };
                let here: Vec<&Event> =
                    events.iter().filter(|event| meant(&place, only.as_deref(), event)).collect();
                if !here.is_empty() {
                    let text: Vec<Bytes> = here.iter().map(|event| line(event.word, &event.object)).collect();
                    return Some((Ok::<Bytes, Infallible>(text.concat().into()), Some((version, latest))));
                }
                if tokio::time::timeout(BOOKMARK, latest.changed()).await.is_err() && bookmarks {
                    let kind = store.list(&place.collection, "", None).1;
                    let kind = kind.first().map_or(json!("Thing"), |object| object["kind"].clone());
                    let (group, api, _) = &place.collection;
                    let api = if group.is_empty() { api.clone() } else { format!("{group}/{api}") };
                    let mark = json!({ "apiVersion": api, "kind": kind, "metadata": { "resourceVersion": version.to_string() } });
                    store.mark(&place.collection.2, version);
                    return Some((Ok(line("BOOKMARK", &mark)), Some((version, latest))));
                }
            }
        }
    });
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from_stream(body))
        .unwrap()
}

fn meant(place: &Place, only: Option<&str>, event: &Event) -> bool {
    event.collection == place.collection
        && (place.namespace.is_empty() || event.at.0 == place.namespace)
        && only.is_none_or(|only| event.at.1 == only)
}

fn line(word: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({ "type": word, "object": object })).into()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview, TokenReviewSpec};
    use k8s_openapi::api::core::v1::ServiceAccount;
    use kube::Api;
    use kube::api::PostParams;
    use serde_json::{Value, json};

    use crate::apiserver::Cluster;

    #[tokio::test]
    async fn a_token_is_known_again_for_its_audience_alone() {
        let cluster = Cluster::in_process();
        let client = cluster.client();
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "crm");
        let asked: TokenRequest =
            serde_json::from_value(json!({ "metadata": {}, "spec": { "audiences": ["foregate-control"] } }))
                .unwrap();
        let given = accounts.create_token_request("leads", &PostParams::default(), &asked).await.unwrap();
        let token = given.status.unwrap().token.unwrap();
        let reviews: Api<TokenReview> = Api::all(client);
        let review = async |audience: &str| {
            let spec = TokenReviewSpec { token: token.clone(), audiences: Some(vec![audience.to_owned()]) };
            let asked = TokenReview { spec, ..TokenReview::default() };
            reviews.create(&PostParams::default(), &asked).await.unwrap().status.unwrap()
        };
        let known = review("foregate-control").await;
        assert_eq!(known.user.unwrap().username.as_deref(), Some("system:serviceaccount:crm:leads"));
        assert_eq!(review("vault").await.authenticated, Some(false));
    }

    #[tokio::test]
    async fn objects_are_changed_by_patches_of_every_kind_and_not_by_stale_ones() {
        let cluster = Cluster::in_process();
        let namespace = |labels: Value| json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "crm", "labels": labels } });
        cluster.put(&namespace(json!({ "a": "1" }))).await;
        let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(cluster.client());
        let params = kube::api::PatchParams::default();
        let merge = kube::api::Patch::Merge(json!({ "metadata": { "labels": { "a": null, "b": "2" } } }));
        let merged = api.patch("crm", &params, &merge).await.unwrap();
        assert_eq!(merged.metadata.labels.clone().unwrap(), [("b".to_owned(), "2".to_owned())].into());
        let operations = json!([{ "op": "add", "path": "/metadata/labels/c", "value": "3" }]);
        let request = axum::http::Request::patch("/api/v1/namespaces/crm")
            .header("content-type", "application/json-patch+json")
            .body(operations.to_string().into_bytes())
            .unwrap();
        let patched: k8s_openapi::api::core::v1::Namespace = cluster.client().request(request).await.unwrap();
        assert_eq!(patched.metadata.labels.unwrap().len(), 2);
        let stale = api.replace("crm", &PostParams::default(), &merged).await.unwrap_err();
        assert!(matches!(stale, kube::Error::Api(status) if status.code == 409));
    }
}
