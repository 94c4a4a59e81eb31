// The server's API. Every failure is an ApiError whose message is the server's own.

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const CLOSED = "The server does not answer. Check that it is running and that you are connected, then try again.";

function reason(status, body) {
  if (status === 401) return "This page needs its access token. Open the link that the server printed when it started.";
  try {
    const { detail } = JSON.parse(body);
    if (typeof detail === "string" && detail) return detail;
    if (Array.isArray(detail)) return detail.map(item => `${(item.loc || []).join(".")}: ${item.msg}`).join("; ");
  } catch { /* not JSON: the status speaks */ }
  return `The server answered with status ${status}.`;
}

/** 32 random hexadecimal digits; `crypto.randomUUID` exists on secure origins only. */
export const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map(b => b.toString(16).padStart(2, "0")).join("");

async function call(method, path, { json, body, headers = {}, signal } = {}) {
  const request = { method, headers: { ...headers }, signal, credentials: "same-origin" };
  if (json !== undefined) {
    request.body = JSON.stringify(json);
    request.headers["Content-Type"] = "application/json";
  } else if (body !== undefined) request.body = body;
  let response;
  try {
    response = await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, CLOSED);
  }
  if (!response.ok) throw new ApiError(response.status, reason(response.status, await response.text()));
  return response;
}

const answer = async response => response.status === 204 ? null : response.json();
const get = (path, options) => call("GET", path, options).then(answer);

/** A POST that may be sent again after a broken connection: the key makes it count once. */
async function post(path, json, headers = {}) {
  const request = { json, headers: { "Idempotency-Key": newKey(), ...headers } };
  for (let wait = 500; ; wait *= 3) {
    try {
      return await call("POST", path, request).then(answer);
    } catch (error) {
      if (error.status !== 0 || wait > 2000) throw error;
      await new Promise(resolve => setTimeout(resolve, wait));
    }
  }
}

const id = encodeURIComponent;
const matches = lesion => ({ "If-Match": `"${lesion.revision}"` });

export const about = () => get("v1/about");
export const images = () => get("v1/images").then(found => found.images);
export const image = sha => get(`v1/images/${id(sha)}`);
export const deleteImage = (sha, accepted = false) => call("DELETE", `v1/images/${id(sha)}${accepted ? "?accepted=true" : ""}`);
export const volume = (sha, signal) => call("GET", `v1/images/${id(sha)}/volume.nii.gz`, { signal });

/** One slice: `{rows, columns, data}`, data an Int16Array. */
export async function slice(sha, axis, k, signal) {
  const response = await call("GET", `v1/images/${id(sha)}/slices/${axis}/${k}`, { signal });
  const [rows, columns] = response.headers.get("X-Shape").split(",").map(Number);
  const buffer = await response.arrayBuffer();
  if (buffer.byteLength !== 2 * rows * columns)
    throw new ApiError(0, `Slice ${axis} ${k}: expected ${2 * rows * columns} bytes for ${rows} × ${columns}, got ${buffer.byteLength}; reload the page.`);
  return { rows, columns, data: new Int16Array(buffer) };
}

// uploads

export const newUpload = (files, name) => post("v1/uploads", { files, name });
export const upload = upload => get(`v1/uploads/${id(upload)}`);
export const completeUpload = upload => post(`v1/uploads/${id(upload)}/complete`, {});

/** Sends one file. XMLHttpRequest, because fetch reports no progress of what it sends. */
export function putFile(upload, n, file, onBytes, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", `v1/uploads/${id(upload)}/files/${n}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = event => onBytes(event.loaded);
    request.onload = () => request.status < 300 ? resolve() : reject(new ApiError(request.status, reason(request.status, request.responseText)));
    request.onerror = () => reject(new ApiError(0, CLOSED));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    if (signal.aborted) request.abort();
    else request.send(file);
  });
}

// lesions

export const newLesion = (sha, click) => post(`v1/images/${id(sha)}/lesions`, click, { Prefer: "wait=10" });
export const clickLesion = (lesion, click, mode) => post(`v1/lesions/${id(lesion)}/clicks`, { click, mode }, { Prefer: "wait=10" });
export const lesion = lesion => get(`v1/lesions/${id(lesion)}`);
export const patchLesion = (lesion, change) =>
  call("PATCH", `v1/lesions/${id(lesion.lesion)}`, { json: change, headers: matches(lesion) }).then(answer);
export const deleteLesion = lesion => call("DELETE", `v1/lesions/${id(lesion)}`);

async function gunzip(buffer) {
  const head = new Uint8Array(buffer, 0, Math.min(2, buffer.byteLength));
  if (head[0] !== 0x1f || head[1] !== 0x8b) return new Uint8Array(buffer); // a proxy or the browser has inflated it
  const stream = new Blob([buffer]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A lesion's mask: `{box: [x0, y0, z0, nx, ny, nz], data}`, or null when it is empty. */
export async function mask(lesion) {
  const response = await call("GET", `v1/lesions/${id(lesion)}/mask`);
  if (response.status === 204) return null;
  const box = response.headers.get("X-Box").split(",").map(Number);
  const data = await gunzip(await response.arrayBuffer());
  const expected = box[3] * box[4] * box[5];
  if (data.length !== expected) throw new ApiError(0, `Mask: expected ${expected} voxels for the box ${box}, got ${data.length}; reload the page.`);
  return { box, data };
}

export async function putMask(lesion, { box, data }) {
  const stream = new Blob([data]).stream().pipeThrough(new CompressionStream("gzip"));
  const body = await new Response(stream).arrayBuffer();
  const headers = { "Content-Type": "application/gzip", "X-Box": box.join(","), ...matches(lesion) };
  return call("PUT", `v1/lesions/${id(lesion.lesion)}/mask`, { body, headers }).then(answer);
}

// jobs

const STREAMS = 3; // of the six connections that a browser opens to a server without HTTP/2
let streams = 0;
const ENDED = new Set(["done", "failed", "cancelled"]);
export const job = job => get(`v1/jobs/${id(job)}`);
export const cancelJob = job => call("DELETE", `v1/jobs/${id(job)}`);

/** Follows a job by server-sent events, by polling where these break. Resolves to its result. */
export function follow(name, onProgress = () => {}) {
  return new Promise((resolve, reject) => {
    const events = streams < STREAMS ? new EventSource(`v1/jobs/${id(name)}/events`) : null;
    let ended = false, open = Boolean(events);
    if (open) streams++;
    const close = () => {
      if (open) streams--;
      open = false;
      events?.close();
    };
    const take = state => {
      if (ended) return;
      onProgress(state);
      if (!ENDED.has(state.state)) return;
      ended = true;
      close();
      if (state.state === "done") resolve(state.result);
      else if (state.state === "cancelled") reject(new DOMException("cancelled", "AbortError"));
      else reject(new ApiError(422, state.error || state.message || "The job failed and gave no reason."));
    };
    const poll = async failures => {
      if (ended) return;
      try {
        take(await job(name));
        failures = 0;
      } catch (error) {
        if (error.status && error.status < 500 || failures >= 5) {
          ended = true;
          return reject(error);
        }
        failures++;
      }
      setTimeout(poll, 1000 + 1000 * failures, failures);
    };
    if (!events) return void poll(0);
    events.addEventListener("job", event => take(JSON.parse(event.data)));
    events.onerror = () => { close(); poll(0); };
  });
}

// exports, comparison, PACS

export const newExport = request => post("v1/exports", request);
export const compare = request => post("v1/comparisons", request);
export const pacsStudies = query => get(`v1/pacs/studies?${new URLSearchParams(query)}`).then(found => found.studies);
export const pacsSeries = study => get(`v1/pacs/studies/${id(study)}/series`).then(found => found.series);
export const pacsImport = (study, series) => post("v1/pacs/import", { study, series });

/** The id of a job or lesion in an answer, which holds either the id or the object. */
export const jobOf = answer => typeof answer.job === "string" ? answer.job : answer.job?.id;
