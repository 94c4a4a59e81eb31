// Files from a drop or a choice to an image of the server: one request a file, three at a time, resumable.

import * as api from "./api.js";
import { bytes } from "./dom.js";

const AT_ONCE = 3;
const TRIES = 4;
const VOLUME = /\.(nii|nii\.gz|mha|nrrd)$/i;
const HIDDEN = /^(\.|thumbs\.db$|desktop\.ini$|dicomdir$)/i;
const KEY = "segnet.upload";

const entries = reader => new Promise((resolve, reject) => reader.readEntries(resolve, reject));
const fileOf = entry => new Promise((resolve, reject) => entry.file(resolve, reject));

async function walk(entry, found, limit) {
  if (found.length > limit) return;
  if (entry.isFile) found.push(await fileOf(entry));
  else if (entry.isDirectory) {
    const reader = entry.createReader();
    for (let some; (some = await entries(reader)).length;)
      for (const child of some) await walk(child, found, limit);
  }
}

/** All files of a drop, folders opened. Must be called within the event: the browser forgets the entries after it. */
export async function dropped(transfer, limit) {
  const items = [...transfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean), files = [...transfer.files];
  if (!items.length) return files;
  const found = [];
  for (const item of items) await walk(item, found, limit);
  return found;
}

/** The files of one image, or an Error that says why these are not. */
export function check(files, limits) {
  const wanted = files.filter(file => !HIDDEN.test(file.name) && file.size > 0);
  if (!wanted.length) throw new Error("No files with content were found. Drop one NIfTI, MHA or NRRD file, or one folder with a DICOM series.");
  const volumes = wanted.filter(file => VOLUME.test(file.name));
  if (volumes.length > 1) throw new Error(`Expected one image, got ${volumes.length}: ${volumes.slice(0, 3).map(file => file.name).join(", ")}. Open them one after the other.`);
  if (volumes.length === 1 && wanted.length > 1)
    throw new Error(`Expected one volume or one DICOM series, got ${volumes[0].name} together with ${wanted.length - 1} other files. Open the volume alone.`);
  if (wanted.length > limits.files) throw new Error(`Expected at most ${limits.files} files, got ${wanted.length}. Choose the folder of a single series.`);
  const total = wanted.reduce((sum, file) => sum + file.size, 0);
  if (total > limits.upload_bytes) throw new Error(`Expected at most ${bytes(limits.upload_bytes)}, got ${bytes(total)}. Compress the volume (.nii.gz) or crop it.`);
  return { files: wanted, total, name: volumes[0]?.name ?? folderName(wanted), nifti: /\.nii(\.gz)?$/i.test(volumes[0]?.name ?? "") };
}

function folderName(files) {
  const [top] = (files[0].webkitRelativePath || "").split("/");
  return top || (files.length === 1 ? files[0].name : "DICOM series");
}

const fingerprint = files => JSON.stringify(files.map(file => [file.name, file.size, file.lastModified]).sort());

/** The unfinished upload of the same files, if the server still has it. */
async function unfinished(files) {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY));
    if (kept?.fingerprint !== await digest(files)) return null;
    return await api.upload(kept.upload);
  } catch {
    return null; // no storage, or the server has forgotten it: start anew
  }
}

/** Files are remembered by a hash, so that no name stays in the browser. */
async function digest(files) {
  const text = new TextEncoder().encode(fingerprint(files));
  if (!crypto.subtle) { // insecure origin: a short checksum serves
    let sum = 5381;
    for (const byte of text) sum = (sum * 33 ^ byte) >>> 0;
    return `${text.length}-${sum}`;
  }
  return [...new Uint8Array(await crypto.subtle.digest("SHA-256", text))].map(b => b.toString(16).padStart(2, "0")).join("");
}

function remember(value) {
  try {
    if (value) localStorage.setItem(KEY, JSON.stringify(value));
    else localStorage.removeItem(KEY);
  } catch { /* private mode: the upload cannot be resumed after a reload */ }
}

/**
 * Sends the files and waits until the server has read them. `onProgress({sent, total, message, fraction})`.
 * Calling it again with the same files goes on where it stopped.
 */
export async function send({ files, total, name }, onProgress, signal) {
  let upload = await unfinished(files);
  if (upload) onProgress({ sent: 0, total, message: "Resuming" });
  else {
    upload = await api.newUpload(files.map(file => ({ name: file.name, size: file.size })), name);
    remember({ upload: upload.upload, fingerprint: await digest(files) });
  }
  // the server numbers the files; names may repeat in subfolders, so they are matched by name and size, each once
  const left = [...files], pairs = upload.files.map(wanted => {
    const at = left.findIndex(file => file.name === wanted.name && file.size === wanted.size);
    return { n: wanted.n, received: wanted.received, file: left.splice(at < 0 ? 0 : at, 1)[0] };
  });
  const sent = new Map(pairs.map(({ n, received, file }) => [n, received === file.size ? file.size : 0]));
  const report = () => {
    const sum = [...sent.values()].reduce((a, b) => a + b, 0);
    onProgress({ sent: sum, total, message: `${bytes(sum)} of ${bytes(total)}${files.length > 1 ? `, ${files.length} files` : ""}`, fraction: sum / total });
  };
  const queue = pairs.filter(({ received, file }) => received !== file.size);
  const worker = async () => {
    for (let next; (next = queue.shift());)
      for (let tries = 1; ; tries++) {
        try {
          await api.putFile(upload.upload, next.n, next.file, loaded => { sent.set(next.n, Math.min(loaded, next.file.size)); report(); }, signal);
          sent.set(next.n, next.file.size);
          break;
        } catch (error) {
          sent.set(next.n, 0);
          if (error.name === "AbortError" || tries === TRIES || error.status && error.status < 500) throw error;
          onProgress({ sent: 0, total, message: `Connection lost, try ${tries + 1} of ${TRIES}` });
          await new Promise(resolve => setTimeout(resolve, 1000 * 2 ** (tries - 1)));
        }
      }
  };
  report();
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, queue.length) }, worker));
  const job = api.jobOf(await api.completeUpload(upload.upload));
  remember(null);
  const stop = () => api.cancelJob(job).catch(() => {});
  signal.addEventListener("abort", stop);
  try {
    const result = await api.follow(job, state => onProgress({ sent: total, total, message: state.message || "The server reads the image", fraction: state.progress || null }));
    return result.image;
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
