// How it goes: the numbers of the last seconds, and the lines of the last minutes.

import type { Model } from "../api";
import { NOTHING, count, micros, rate, share } from "../format";
import { overview } from "../state";
import { Chart } from "../chart";
import { Command, Panel, asking } from "../panel";

/** From here on a population has moved (Siddiqi, Credit Risk Scorecards, 2006). */
const MOVED = 0.25;

function Figure({ name, value, below, tone }: { name: string; value: string; below: string; tone?: string | undefined }) {
  return (
    <div class="figure">
      <dt>{name}</dt>
      <dd class={tone}>{value}</dd>
      <dd class="below">{below}</dd>
    </div>
  );
}

function most(models: Model[], by: (model: Model) => number | undefined): Model | undefined {
  const known = models.filter((model) => by(model) !== undefined);
  return known.reduce<Model | undefined>((best, next) => (best && (by(best) ?? 0) >= (by(next) ?? 0) ? best : next), undefined);
}

export function Figures() {
  const seen = overview.value;
  const total = seen?.total;
  const models = seen?.models ?? [];
  const slow = most(models, (model) => (model.p99_us > 0 ? model.p99_us : undefined));
  const moved = most(models, (model) => model.drift?.index);
  const success = total?.success ?? null;
  return (
    <section class="figures" aria-labelledby="now-title">
      <div class="head">
        <h2 id="now-title">Now</h2>
        <p class="note">the last {Math.round(seen?.window_seconds ?? 10)} s, all routes</p>
        <Command text={asking("top")} />
      </div>
      <dl>
        <Figure name="Requests" value={total ? `${rate(total.requests_per_second)}/s` : NOTHING} below={total ? `${count(total.requests)} since the start` : ""} />
        <Figure name="Success" value={share(success)} below={total ? `${count(total.failed)} failed` : ""} tone={success !== null && success < 0.99 ? "bad" : undefined} />
        <Figure name="Refusals" value={total ? `${rate(total.refusals_per_second)}/s` : NOTHING} below={total ? `${count(total.refused)} since the start` : ""} />
        <Figure name="Added, p50" value={micros(total?.added_p50_us)} below="by the gateway" />
        <Figure name="Added, p99" value={micros(total?.added_p99_us)} below="by the gateway" />
        <Figure name="Model, p99" value={micros(slow?.p99_us)} below={slow?.name ?? "one row"} />
        <Figure
          name="Drift" value={moved?.drift?.index.toFixed(2) ?? NOTHING}
          below={moved?.drift ? `${moved.name}, ${moved.drift.feature}` : "stability index"}
          tone={(moved?.drift?.index ?? 0) >= MOVED ? "bad" : undefined}
        />
      </dl>
    </section>
  );
}

export function Requests() {
  const past = overview.value?.history;
  return (
    <Panel id="requests" title="Requests" note="a second, 15 minutes" command={asking("top --once --format json")}>
      <Chart
        title="Requests a second over 15 minutes" at={past?.at ?? []} format={rate}
        lines={[
          { name: "all", color: "--accent", values: past?.requests_per_second ?? [] },
          { name: "refused", color: "--warn", values: past?.refusals_per_second ?? [] },
          { name: "failed", color: "--bad", values: past?.failures_per_second ?? [] },
        ]}
      />
    </Panel>
  );
}

export function Added() {
  const past = overview.value?.history;
  return (
    <Panel id="added" title="Added latency" note="total without upstream and client" command={`curl -s ${location.origin}/metrics | grep foregate_added`}>
      <Chart
        title="Latency added by the gateway over 15 minutes" at={past?.at ?? []} format={micros}
        lines={[
          { name: "p50", color: "--accent", values: past?.added_p50_us ?? [] },
          { name: "p99", color: "--ink", values: past?.added_p99_us ?? [] },
        ]}
      />
    </Panel>
  );
}
