// On the data account, in its own resource group: what the app and its operator may do there, the topic of its events, and the
// container of those that could not be delivered, where `fedplane events replay` looks for them.
param token string
param tags object
param accountName string
param container string
param principalId string
param operatorPrincipalId string
param operatorPrincipalType string
param deadLetterContainer string

resource account 'Microsoft.Storage/storageAccounts@2023-05-01' existing = {
  name: accountName

  resource blobs 'blobServices' existing = {
    name: 'default'

    resource data 'containers' existing = {
      name: container
    }

    // Beside the synchronised container, never in it: it would feed itself.
    resource undelivered 'containers' = {
      name: deadLetterContainer
    }
  }
}

// Storage Blob Data Contributor on the one container.
resource reads 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(account.id, container, principalId)
  scope: account::blobs::data
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', 'ba92f5b4-2d11-453d-a403-e96b0029c9fe')
  }
}

resource operatorWrites 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(operatorPrincipalId)) {
  name: guid(account.id, container, operatorPrincipalId)
  scope: account::blobs::data
  properties: {
    principalId: operatorPrincipalId
    principalType: operatorPrincipalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', 'ba92f5b4-2d11-453d-a403-e96b0029c9fe')
  }
}

// Storage Blob Data Reader: a replay leaves dead letters where they are.
resource operatorReadsLetters 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(operatorPrincipalId)) {
  name: guid(account.id, deadLetterContainer, operatorPrincipalId)
  scope: account::blobs::undelivered
  properties: {
    principalId: operatorPrincipalId
    principalType: operatorPrincipalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '2a2b9908-6ea1-4ae2-8e65-a410df84e7d1')
  }
}

// One system topic an account: where one exists, name it as it is named.
resource topic 'Microsoft.EventGrid/systemTopics@2025-02-15' = {
  name: 'evgt-${token}'
  location: account.location
  tags: tags
  identity: { type: 'SystemAssigned' }
  properties: {
    source: account.id
    topicType: 'Microsoft.Storage.StorageAccounts'
  }
}

// The topic puts dead letters here. On the account: a container is refused by some (facts/azure.md 9.3).
resource topicWritesLetters 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(account.id, topic.id, 'dead letters')
  scope: account
  properties: {
    principalId: topic.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', 'ba92f5b4-2d11-453d-a403-e96b0029c9fe')
  }
}

output accountId string = account.id
output topicId string = topic.id
output topicName string = topic.name
output topicPrincipalId string = topic.identity.principalId
