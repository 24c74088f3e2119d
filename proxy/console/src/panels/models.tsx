// What models say now against what they said of their training records.

import type { Model, Scores } from "../api";
import { count, micros } from "../format";
import { overview } from "../state";
import { Panel, asking } from "../panel";

const WIDTH = 320;
const HEIGHT = 96;

function shares(counts: number[]): number[] {
  const sum = counts.reduce((a, b) => a + b, 0);
  return counts.map((it) => (sum > 0 ? it / sum : 0));
}

function edge(value: number): string {
  return value.toFixed(2).replace(/^0/, "");
}

/** The words for a bin: what lies below the first edge, between two, and from the last on. */
function range(edges: number[], bin: number): string {
  const [from, to] = [edges[bin - 1], edges[bin]];
  if (from === undefined) return to === undefined ? "all" : `below ${edge(to)}`;
  return to === undefined ? `${edge(from)} and over` : `${edge(from)} to ${edge(to)}`;
}

function Histogram({ name, scores }: { name: string; scores: Scores }) {
  const [training, now] = [shares(scores.training), shares(scores.now)];
  const seen = scores.now.reduce((a, b) => a + b, 0);
  const top = Math.max(...training, ...now, 0.01) * 1.08;
  const step = WIDTH / training.length;
  const height = (value: number): number => (value / top) * HEIGHT;
  const outline = training.map((value, bin) => `${bin === 0 ? "M0" : "H"}${bin === 0 ? `,${HEIGHT - height(value)}` : bin * step}V${HEIGHT - height(value)}`).join("");
  return (
    <figure>
      <div class="legend" aria-hidden="true">
        <span><i style={{ background: "var(--accent)" }} /> now <b>{count(seen)} records</b></span>
        <span><i class="outline" /> training</span>
      </div>
      <svg class="bars" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img"
        aria-label={`Scores of ${name} by the bins of its training records: share now and share in training. The table below has the numbers.`}>
        {now.map((value, bin) => (
          <rect key={bin} x={bin * step + 1.5} width={step - 3} y={HEIGHT - height(value)} height={height(value)} />
        ))}
        <path d={`${outline}H${WIDTH}`} vector-effect="non-scaling-stroke" />
      </svg>
      <div class="edges" aria-hidden="true">
        {scores.edges.map((value, place) => (
          <span key={value} style={{ left: `${(100 * (place + 1)) / training.length}%` }}>{edge(value)}</span>
        ))}
      </div>
      <details>
        <summary>As a table</summary>
        <table>
          <thead><tr><th scope="col">Score</th><th scope="col" class="number">Now</th><th scope="col" class="number">Training</th></tr></thead>
          <tbody>
            {training.map((was, bin) => (
              <tr key={bin}>
                <th scope="row">{range(scores.edges, bin)}</th>
                <td class="number">{(100 * (now[bin] ?? 0)).toFixed(1)} %</td>
                <td class="number">{(100 * was).toFixed(1)} %</td>
              </tr>
            ))}
          </tbody>
        </table>
      </details>
    </figure>
  );
}

function One({ model }: { model: Model }) {
  return (
    <article class="model">
      <h3>{model.name} <span class="note">{model.version}, {model.role}, {model.runs}</span></h3>
      <dl>
        <div><dt>p99 of a row</dt><dd>{model.p99_us > 0 ? micros(model.p99_us) : "\u2013"}</dd></div>
        <div><dt>Drift</dt><dd>{model.drift ? `${model.drift.index.toFixed(2)} ${model.drift.feature}` : "\u2013"}</dd></div>
      </dl>
      {model.scores ? <Histogram name={model.name} scores={model.scores} /> : <p class="empty">The bundle has no reference.json to compare with.</p>}
    </article>
  );
}

export function Models() {
  const models = overview.value?.models ?? [];
  return (
    <Panel id="models" title="Scores" note="sampled decisions against the training records" command={asking("top --once --format json")}>
      {models.length > 0 ? (
        <div class="models">{models.map((model) => <One key={`${model.name} ${model.version}`} model={model} />)}</div>
      ) : (
        <p class="empty">{overview.value ? "No model is in force." : ""}</p>
      )}
    </Panel>
  );
}
