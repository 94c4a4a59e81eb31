// Prints, as JSON, the measurements that @cornerstonejs/adapters reads from a structured report, as OHIF does.
// Arguments: a folder node_modules; the report; a JSON file {SOP instance UID: imagePlaneModule}.
import fs from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, report, planes] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${modules}/../index.js`));
const load = async (name) => import(pathToFileURL(require.resolve(name)).href);

const dcmjs = (await load("dcmjs")).default;
const core = await load("@cornerstonejs/core");
const { adaptersSR } = await load("@cornerstonejs/adapters");

const imagePlanes = JSON.parse(fs.readFileSync(planes, "utf8"));
core.metaData.addProvider((type, imageId) => (type === "imagePlaneModule" ? imagePlanes[imageId] : undefined), 1);

const file = dcmjs.data.DicomMessage.readFile(new Uint8Array(fs.readFileSync(report)).buffer);
const dataset = dcmjs.data.DicomMetaDictionary.naturalizeDataset(file.dict);
const imageIds = Object.fromEntries(Object.keys(imagePlanes).map((uid) => [`${uid}:1`, uid])); // by instance and frame
const found = adaptersSR.Cornerstone3D.MeasurementReport.generateToolState(dataset, imageIds, core.metaData, {});

const out = {};
for (const [tool, measurements] of Object.entries(found)) {
  out[tool] = measurements.map((one) => ({
    points: one.annotation.data.handles.points,
    stats: Object.values(one.annotation.data.cachedStats ?? {}),
    image: one.annotation.metadata.referencedImageId ?? null,
    uid: one.TrackingUniqueIdentifier,
    sites: (one.findingSites ?? []).map((site) => site.CodeMeaning),
    finding: one.finding?.CodeMeaning ?? null,
  }));
}
fs.writeSync(1, `RESULT ${JSON.stringify(out)}\n`);
process.exit(0);
