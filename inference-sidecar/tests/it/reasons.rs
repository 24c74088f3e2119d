//! Reasons: values of Shapley for trees, weights of linear models, what people read.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foregate_filters::score::{ScoreCall, Scorer};
use foregate_inference::bundle::Bundle;
use foregate_inference::features::Reading;
use foregate_inference::forest::Forest;
use foregate_inference::onnx::{Network, open};
use foregate_inference::scorer::ModelScorer;
use serde_json::{Value, json};

use crate::bundles::{copy, edit};
use crate::draw::Draw;
use crate::ensembles::{Grown, MODES, WIDTH, classic, grow, model, rows};
use crate::forests::{floats, int, ints, ports, text, texts};

/// A tree with the rows that came to each node, and the weights of its leaves for two targets.
struct Covered {
    nodes: Vec<Grown>,
    covers: Vec<f64>,
    weights: Vec<[f32; 2]>,
}

fn cover(nodes: &[Grown], at: usize, draw: &mut Draw, covers: &mut [f64]) -> f64 {
    covers[at] = match nodes[at].children {
        Some((yes, no)) => cover(nodes, yes, draw, covers) + cover(nodes, no, draw, covers),
        None => f64::from(u8::try_from(1 + draw.below(20)).unwrap()),
    };
    covers[at]
}

fn tree(draw: &mut Draw) -> Covered {
    let mut nodes = Vec::new();
    let depth = 1 + draw.below(5);
    grow(draw, &[0, 1, 2, 3, 4, 5], depth, &mut nodes);
    let mut covers = vec![0.0; nodes.len()];
    cover(&nodes, 0, draw, &mut covers);
    let weights = nodes.iter().map(|_| [draw.eighths(), draw.eighths()]).collect();
    Covered { nodes, covers, weights }
}

fn goes_true(node: &Grown, value: f32) -> bool {
    let split = node.split;
    let holds = match MODES[node.mode] {
        "BRANCH_LEQ" => value <= split,
        "BRANCH_LT" => value < split,
        "BRANCH_GTE" => value >= split,
        "BRANCH_GT" => value > split,
        "BRANCH_EQ" => value == split,
        _ => value != split,
    };
    holds || node.tracks != 0 && value.is_nan()
}

/// What the tree says where only the columns of `known` are known: the others are weighed by the rows.
fn expected(tree: &Covered, at: usize, row: &[f32], known: usize, target: usize) -> f64 {
    let node = &tree.nodes[at];
    let Some((yes, no)) = node.children else { return f64::from(tree.weights[at][target]) };
    let feature = usize::try_from(node.feature).unwrap();
    if known & (1 << feature) != 0 {
        let next = if goes_true(node, row[feature]) { yes } else { no };
        return expected(tree, next, row, known, target);
    }
    let part =
        |child: usize| tree.covers[child] / tree.covers[at] * expected(tree, child, row, known, target);
    part(yes) + part(no)
}

/// The definition: the mean over all orders in which columns become known.
fn shapley(trees: &[Covered], row: &[f32], target: usize, column: usize) -> f64 {
    let factorial = |n: usize| (1..=n).product::<usize>();
    let value = |known: usize| trees.iter().map(|tree| expected(tree, 0, row, known, target)).sum::<f64>();
    (0..1_usize << WIDTH)
        .filter(|known| known & (1 << column) == 0)
        .map(|known| {
            let size = known.count_ones() as usize;
            #[allow(clippy::cast_precision_loss, reason = "small numbers")]
            let weight = (factorial(size) * factorial(WIDTH - size - 1)) as f64 / factorial(WIDTH) as f64;
            weight * (value(known | 1 << column) - value(known))
        })
        .sum()
}

fn forest(trees: &[Covered], how: &str) -> Forest {
    let number = |value: usize| i64::try_from(value).unwrap();
    let all = || {
        trees
            .iter()
            .enumerate()
            .flat_map(|(tree, it)| it.nodes.iter().enumerate().map(move |(id, node)| (tree, id, node)))
    };
    let child =
        |node: &Grown, on: bool| node.children.map_or(0, |(yes, no)| number(if on { yes } else { no }));
    let leaves: Vec<_> = all()
        .filter(|it| it.2.children.is_none())
        .flat_map(|(tree, id, _)| [0, 1].map(|target| (tree, id, target, trees[tree].weights[id][target])))
        .collect();
    #[allow(clippy::cast_possible_truncation, reason = "small whole numbers")]
    let covers: Vec<f32> =
        trees.iter().flat_map(|tree| tree.covers.iter().map(|cover| *cover as f32)).collect();
    let attributes = vec![
        ints("nodes_treeids", &all().map(|it| number(it.0)).collect::<Vec<_>>()),
        ints("nodes_nodeids", &all().map(|it| number(it.1)).collect::<Vec<_>>()),
        ints("nodes_featureids", &all().map(|it| it.2.feature).collect::<Vec<_>>()),
        floats("nodes_values", &all().map(|it| it.2.split).collect::<Vec<_>>()),
        floats("nodes_hitrates", &covers),
        texts(
            "nodes_modes",
            &all()
                .map(|it| if it.2.children.is_some() { MODES[it.2.mode] } else { "LEAF" })
                .collect::<Vec<_>>(),
        ),
        ints("nodes_truenodeids", &all().map(|it| child(it.2, true)).collect::<Vec<_>>()),
        ints("nodes_falsenodeids", &all().map(|it| child(it.2, false)).collect::<Vec<_>>()),
        ints("nodes_missing_value_tracks_true", &all().map(|it| it.2.tracks).collect::<Vec<_>>()),
        ints("target_treeids", &leaves.iter().map(|leaf| number(leaf.0)).collect::<Vec<_>>()),
        ints("target_nodeids", &leaves.iter().map(|leaf| number(leaf.1)).collect::<Vec<_>>()),
        ints("target_ids", &leaves.iter().map(|leaf| number(leaf.2)).collect::<Vec<_>>()),
        floats("target_weights", &leaves.iter().map(|leaf| leaf.3).collect::<Vec<_>>()),
        floats("base_values", &[0.5, -1.0]),
        int("n_targets", 2),
        text("aggregate_function", how),
    ];
    match open(&model("TreeEnsembleRegressor", attributes, 3), &ports(WIDTH)).unwrap() {
        Network::Forest(mut forest) => {
            forest.learn(&[]);
            *forest
        }
        Network::Graph(_) => panic!("no forest"),
    }
}

#[test]
fn contributions_are_the_values_of_shapley_by_their_definition() {
    let mut draw = Draw(21);
    let mut compared = 0;
    for case in 0..60 {
        let trees: Vec<Covered> = (0..=draw.below(4)).map(|_| tree(&mut draw)).collect();
        let (how, scale) = if case % 3 == 0 {
            ("AVERAGE", 1.0 / f64::from(u8::try_from(trees.len()).unwrap()))
        } else {
            ("SUM", 1.0)
        };
        let forest = forest(&trees, how);
        for row in rows(&mut draw).iter().take(6) {
            for (target, base) in [0.5, -1.0].into_iter().enumerate() {
                let mut ours = vec![0.0; WIDTH];
                let margin = forest.explain(row, target, &mut ours).unwrap();
                for (column, ours) in ours.iter().enumerate() {
                    let theirs = scale * shapley(&trees, row, target, column);
                    assert!(
                        (ours - theirs).abs() < 1e-9,
                        "case {case}, column {column}: {ours}, by definition {theirs}"
                    );
                }
                let mean: f64 = trees.iter().map(|tree| expected(tree, 0, row, 0, target)).sum();
                assert!((margin.base - base - scale * mean).abs() < 1e-9, "{margin:?}");
                assert!((margin.base + ours.iter().sum::<f64>() - margin.margin).abs() < 1e-9, "{margin:?}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 720);
}

/// Whatever the layout of classes and weights: base and contributions add up to what the model computes.
#[test]
fn contributions_of_every_kind_of_ensemble_add_up_to_its_output() {
    let mut draw = Draw(23);
    let (mut added, mut silent) = (0, 0);
    for _ in 0..300 {
        let (mut attributes, operator) = classic(&mut draw);
        attributes.retain(|attribute| attribute.name != "post_transform");
        attributes.push(text("post_transform", "NONE"));
        let Ok(Network::Forest(mut forest)) = open(&model(operator, attributes, 3), &ports(WIDTH)) else {
            continue;
        };
        let rows = rows(&mut draw);
        forest.learn(&rows.concat());
        for row in &rows {
            let mut out = Vec::new();
            forest.run_row(row, &mut Vec::new(), &mut out).unwrap();
            for (column, score) in out.iter().enumerate() {
                let mut contributions = vec![0.0; WIDTH];
                let Some(margin) = forest.explain(row, column, &mut contributions) else {
                    silent += 1;
                    continue;
                };
                let sum = margin.base + contributions.iter().sum::<f64>();
                assert!((sum - margin.margin).abs() < 1e-9, "{sum} {margin:?}");
                assert!(
                    (sum - f64::from(*score)).abs() < 1e-5,
                    "{operator}, column {column} of {}: {sum}, {score}",
                    out.len()
                );
                added += 1;
            }
        }
    }
    assert!(added > 5_000 && silent > 0, "{added} {silent}");
}

fn shipped(name: &str) -> Bundle {
    Bundle::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles").join(name)).unwrap()
}

#[test]
fn reasons_of_the_shipped_models_add_up_to_their_log_odds() {
    for name in ["lead-score", "lead-score-logistic"] {
        let bundle = shipped(name);
        for visits in [0, 3, 40] {
            let record =
                format!(r#"{{"AnnualRevenue":18500000,"Title":"CEO","Website_Visits__c":{visits}}}"#);
            let row = bundle.plan.extract(record.as_bytes(), &[], Reading::default()).unwrap().rows;
            let mut score = Vec::new();
            bundle.model.run(&row, 1, &mut score).unwrap();
            let reasons = bundle.model.explain(&row, &score).unwrap();
            let sum = reasons.margin.base + reasons.columns.iter().sum::<f64>();
            assert!((sum - reasons.margin.margin).abs() < 1e-9);
            assert!(
                (1.0 / (1.0 + (-sum).exp()) - f64::from(score[0])).abs() < 1e-5,
                "{name}: {sum}, {score:?}, {reasons:?}"
            );
        }
    }
}

fn call(explain: bool) -> ScoreCall {
    let body = r#"{"records":[{"AnnualRevenue":18500000,"NumberOfEmployees":240,"Title":"CE\u004f"},{"Website_Visits__c":31}]}"#;
    let budget = Duration::from_mins(1);
    ScoreCall {
        body: Bytes::from_static(body.as_bytes()),
        reserved: Arc::default(),
        budget,
        now: Duration::ZERO,
        explain,
    }
}

#[test]
fn reasons_are_given_to_those_who_ask_largest_first() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let scorer = ModelScorer::new("lead", shipped("lead-score-logistic"), 1);
    assert_eq!(scorer.score(&call(true)), None, "never on the thread of a request");
    let explained = runtime.block_on(scorer.submit(call(true))).unwrap();
    let plain = runtime.block_on(scorer.submit(call(false))).unwrap();
    for (explained, plain) in explained.iter().zip(&plain) {
        assert_eq!((&explained.score, &plain.detail), (&plain.score, &None));
        let reasons = explained.detail.as_ref().unwrap().reasons.as_ref().unwrap();
        let sizes: Vec<f32> =
            reasons.predictors.iter().map(|predictor| predictor.contribution.abs()).collect();
        assert!(!sizes.is_empty() && sizes.len() <= 5 && sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
    }
}

#[test]
fn reasons_tell_values_but_those_that_are_personal() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let told = |test: &str, entry: &str| {
        let dir = copy(test);
        edit(&dir, "model.yaml", |text| text.replace("pointer: /Title,", entry));
        let scorer = ModelScorer::new("lead", Bundle::load(&dir).unwrap(), 1);
        let first = runtime.block_on(scorer.submit(call(true))).unwrap().remove(0);
        let mut text = String::new();
        first.detail.unwrap().reasons.unwrap().push_json(&mut text);
        let told: Value = serde_json::from_str(&text).unwrap();
        let fields = told.as_array().unwrap().iter().map(|predictor| predictor["predictorFields"][0].clone());
        fields.filter(|field| field["name"] == "title_level").collect::<Vec<_>>()
    };
    let open = told("reasons-open", "pointer: /Title,");
    assert_eq!(open, [json!({"label": "Title", "name": "title_level", "value": "CEO"})]);
    let personal = told("reasons-pii", "pointer: /Title, pii: true, label: Rank,");
    assert_eq!(personal, [json!({"label": "Rank", "name": "title_level", "value": null})]);
}
