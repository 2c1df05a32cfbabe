// Compiles the pipelines of a manifest with Tint, the WGSL compiler of Chromium, with WebGPU's default limits and
// without a GPU. tests/portability/main.rs calls it: node tint.mjs DAWN.NODE MANIFEST.JSON
//
// The manifest is [{ name, file, pipelines: [{ name, entryPoint, constants }] }]. Prints "fault WHAT" for each fault, and
// at the end "valid PIPELINES"; the exit status says nothing.
import { readFileSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';

const [dawn, manifest] = process.argv.slice(2);
const { create, globals } = createRequire(import.meta.url)(dawn);
Object.assign(globalThis, globals);

const say = (text) => writeSync(1, `${text}\n`);
// Kept where nothing collects it: what it has given out is in use until the end.
globalThis.gpu = create(['backend=null']);
const adapter = await gpu.requestAdapter();
// No limits are asked for: the device has the default ones.
const device = await adapter.requestDevice({ requiredFeatures: ['shader-f16', 'subgroups'] });
let valid = 0;
for (const { name, file, pipelines } of JSON.parse(readFileSync(manifest, 'utf8'))) {
  // What is wrong with a module is asked for below; without the scope Dawn prints it as well.
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code: readFileSync(file, 'utf8') });
  device.popErrorScope();
  const { messages } = await module.getCompilationInfo();
  const errors = messages.filter(({ type }) => type === 'error');
  for (const { lineNum, linePos, message } of errors) say(`fault ${name}:${lineNum}:${linePos}: ${message}`);
  if (errors.length > 0) continue;
  for (const { name: pipeline, entryPoint, constants } of pipelines) {
    try {
      await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint, constants } });
      valid++;
    } catch (error) {
      say(`fault ${pipeline}: ${error.message}`);
    }
  }
}
say(`valid ${valid}`);
// Dawn's threads would keep the process alive.
process.exit();
