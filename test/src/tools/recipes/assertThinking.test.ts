import {join} from 'node:path';
import {Tokenizer} from '../../../../models/tokenizer.ts';
import {assertThinking} from '../../../../src/tools/recipes/assertThinking.ts';
import {resolveRecipe} from '../../../../src/tools/recipes/recipe.ts';
import {parseRecipeText} from '../../../../src/tools/recipes/recipeSource.ts';

const REASONING = `{% for message in messages %}{% if message.role == 'assistant' %}<think>
</think>
{{ message.content }}{% else %}{{ message.content }}{% endif %}{% endfor %}`;

async function check(chatTemplate: string, lines: string): Promise<void> {
  const {files} = await Tokenizer.fromFolder(join(__dirname, '../../../../examples/quickstart/model'));
  const source = parseRecipeText(`model_name_or_path: model\n${lines}`, 'recipe.yaml');
  assertThinking(resolveRecipe(source, 'recipe.yaml'), new Tokenizer({...files, chatTemplate}));
}

test.each([
  ['enable_thinking: false', 'recipe.yaml enable_thinking: expected true under this model'],
  ['preserve_thinking: true', 'recipe.yaml preserve_thinking: expected false under this model'],
])('%s is refused under the chat template of a model that reasons', async (lines, message) => {
  await expect(check(REASONING, lines)).rejects.toMatchObject({
    code: 'UNSUPPORTED',
    message: expect.stringContaining(message),
  });
});

test.each([
  [REASONING, 'enable_thinking: true'],
  [REASONING, 'enable_thinking: false\ntemplate: llama3'],
  ['{% for message in messages %}{{ message.content }}{% endfor %}', 'enable_thinking: false'],
])('elsewhere it changes nothing: %j, %j', (chatTemplate, lines) => check(chatTemplate, lines));
