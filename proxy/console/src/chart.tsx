// Lines over time, drawn by uPlot; the same in words and as a table for who sees no picture.

import { useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";

export interface Line {
  name: string;
  /** A property of the style sheet. */
  color: string;
  values: (number | null)[];
}

interface Props {
  title: string;
  at: number[];
  lines: Line[];
  format: (value: number) => string;
}

const HEIGHT = 150;

function data(at: number[], lines: Line[]): uPlot.AlignedData {
  return [at, ...lines.map((line) => line.values)] as uPlot.AlignedData;
}

function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Least time that is shown, in seconds: the first moments after a start are no wide picture of themselves. */
const LEAST = 60;

/** What is shown of the time; nothing while there is no number yet. */
function shown(at: uPlot.AlignedData[0]): [number | null, number | null] {
  const [first, last] = [at[0], at[at.length - 1]];
  return first === undefined || last === undefined ? [null, null] : [Math.min(first, last - LEAST), last];
}

/** Times of ticks; with seconds where a minute would stand there more than once. */
function times(ticks: number[]): string[] {
  const told = (to: number): string[] => ticks.map((at) => new Date(at * 1_000).toISOString().slice(11, to));
  const minutes = told(16);
  return new Set(minutes).size < minutes.length ? told(19) : minutes;
}

function options(width: number, { lines, format }: Props, look: (place: number | null) => void): uPlot.Options {
  const axis = {
    stroke: () => colour("--muted"),
    grid: { stroke: () => colour("--line"), width: 1 },
    ticks: { show: false },
    font: "11px system-ui, sans-serif",
  };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    padding: [8, 8, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 5 } },
    scales: { x: { range: (plot) => shown(plot.data[0]) }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } },
    axes: [
      { ...axis, size: 22, space: 60, values: (_, ticks) => times(ticks) },
      { ...axis, size: 58, space: 32, values: (_, ticks) => ticks.map(format) },
    ],
    series: [
      {},
      ...lines.map(({ name, color }) => ({
        label: name,
        stroke: () => colour(color),
        width: 1.5,
        // Of one number there is no line.
        points: { show: (plot: uPlot) => plot.data[0].length === 1 },
      })),
    ],
    hooks: { setCursor: [(plot) => look(plot.cursor.idx ?? null)] },
  };
}

export function Chart(props: Props) {
  const { title, at, lines, format } = props;
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(props);
  const pointed = useSignal<number | null>(null);
  const scheme = useSignal(0);
  latest.current = props;

  useEffect(() => {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const changed = (): void => { scheme.value += 1; };
    dark.addEventListener("change", changed);
    const resized = new ResizeObserver(([entry]) => {
      if (entry) plot.current?.setSize({ width: entry.contentRect.width, height: HEIGHT });
    });
    if (box.current) resized.observe(box.current);
    return () => {
      dark.removeEventListener("change", changed);
      resized.disconnect();
    };
  }, []);

  useSignalEffect(() => {
    void scheme.value;
    const host = box.current;
    if (!host) return;
    const { at, lines } = latest.current;
    const look = (place: number | null): void => { pointed.value = place; };
    const made = new uPlot(options(host.clientWidth, latest.current, look), data(at, lines), host);
    plot.current = made;
    return () => made.destroy();
  });

  useEffect(() => {
    plot.current?.setData(data(at, lines));
  });

  const place = pointed.value ?? at.length - 1;
  const told = (value: number | null | undefined): string => (value === null || value === undefined ? "\u2013" : format(value));
  const words = lines.map(({ name, values }) => {
    const known = values.filter((value) => value !== null);
    return known.length > 0
      ? `${name}: now ${told(values.at(-1))}, at least ${format(Math.min(...known))}, at most ${format(Math.max(...known))}`
      : `${name}: nothing yet`;
  });
  return (
    <figure>
      <div class="legend" aria-hidden="true">
        {lines.map(({ name, color, values }) => (
          <span key={name}>
            <i style={{ background: `var(${color})` }} /> {name} <b>{told(values[place])}</b>
          </span>
        ))}
        <span class="when">{at[place] === undefined ? "" : `${new Date(at[place] * 1_000).toISOString().slice(11, 19)} UTC`}</span>
      </div>
      <div class="plot" ref={box} role="img" aria-label={`${title}. ${words.join("; ")}.`} />
      <details>
        <summary>As a table</summary>
        <div class="scroll" tabIndex={0} role="region" aria-label={`${title}, as a table`}>
          <table>
            <thead>
              <tr>
                <th scope="col">UTC</th>
                {lines.map(({ name }) => <th scope="col" class="number" key={name}>{name}</th>)}
              </tr>
            </thead>
            <tbody>
              {at.map((time, row) => (
                <tr key={time}>
                  <th scope="row">{new Date(time * 1_000).toISOString().slice(11, 19)}</th>
                  {lines.map(({ name, values }) => <td class="number" key={name}>{told(values[row])}</td>)}
                </tr>
              )).reverse()}
            </tbody>
          </table>
        </div>
      </details>
    </figure>
  );
}
