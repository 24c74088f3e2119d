// Makes dist/ from src/; with --check, tells whether dist/ is what src/ gives.

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync, gzipSync } from "node:zlib";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
const dist = join(here, "dist");
/** What the page may weigh before compression, in bytes. */
const LIMIT = 150 * 1024;
const LIBRARIES = ["preact", "@preact/signals", "@preact/signals-core", "uplot"];

async function made() {
  const { outputFiles } = await build({
    absWorkingDir: here,
    entryPoints: ["src/main.tsx"],
    outdir: "out",
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    target: ["es2022"],
    jsx: "automatic",
    jsxImportSource: "preact",
    legalComments: "none",
    charset: "utf8",
    tsconfigRaw: "{}",
  });
  const output = (end) => Buffer.from(outputFiles.find((file) => file.path.endsWith(end)).contents);
  const files = {
    "app.js": output(".js"),
    "app.css": output(".css"),
    "icon.svg": readFileSync(join(here, "src/icon.svg")),
  };
  let page = readFileSync(join(here, "src/index.html"), "utf8");
  const hashes = {};
  for (const [name, bytes] of Object.entries(files)) {
    const hash = createHash("sha256").update(bytes).digest("hex").slice(0, 16);
    const [stem, end] = name.split(".");
    page = page.replace(`${stem}.${end === "svg" ? "ICON" : end.toUpperCase()}.${end}`, `${stem}.${hash}.${end}`);
    hashes[`${name}.hash`] = Buffer.from(hash);
  }
  files["index.html"] = Buffer.from(page);
  return { files, hashes, notice: Buffer.from(notice()) };
}

/** The licences of what is bundled. */
function notice() {
  const parts = LIBRARIES.map((name) => {
    const folder = join(here, "node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    return `${name} ${version} (${license})\n\n${readFileSync(join(folder, "LICENSE"), "utf8").trim()}\n`;
  });
  return `The console is bundled with these libraries.\n\n${parts.join(`\n${"-".repeat(78)}\n\n`)}`;
}

const { files, hashes, notice: licences } = await made();
const weight = Object.values(files).reduce((sum, bytes) => sum + bytes.length, 0);
const wrong = weight > LIMIT ? [`the page weighs ${weight} bytes, over ${LIMIT}`] : [];
const plain = { ...hashes, "THIRD-PARTY.txt": licences };
if (process.argv.includes("--check")) {
  const differs = (name, is, unpacked) => {
    try {
      if (unpacked(readFileSync(join(dist, name))).equals(is)) return;
      wrong.push(`dist/${name} is not what src/ gives`);
    } catch (error) {
      wrong.push(`dist/${name}: ${error.message}`);
    }
  };
  // Compressed bytes differ from one zlib to the next, what they stand for does not.
  for (const [name, bytes] of Object.entries(files)) differs(`${name}.gz`, bytes, gunzipSync);
  for (const [name, bytes] of Object.entries(plain)) differs(name, bytes, (it) => it);
} else {
  mkdirSync(dist, { recursive: true });
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(dist, `${name}.gz`), gzipSync(bytes, { level: 9 }));
  for (const [name, bytes] of Object.entries(plain)) writeFileSync(join(dist, name), bytes);
  console.log(`${weight} bytes`);
}
for (const what of wrong) console.error(`${what}: run proxy/console/build`);
process.exitCode = wrong.length > 0 ? 1 : 0;
